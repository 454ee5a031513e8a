//! `millpond config explain`: what each setting means.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, bail};
use millpond_broker::{Kind, SETTINGS, Setting};
use millpond_cluster::{Support, TOPIC_CONFIGS, TopicConfig};

use crate::arguments::ExplainArguments;
use crate::mistakes::or_nearest;
use crate::output::{Output, quiet};

/// Explains one setting, or all.
pub(crate) fn run(arguments: &ExplainArguments) -> Result<ExitCode> {
    let text = explain(arguments.name.as_deref())?;
    let mut out = Output::stdout();
    quiet(out.write_all(text.as_bytes()).and_then(|()| out.flush()))?;
    Ok(ExitCode::SUCCESS)
}

fn explain(name: Option<&str>) -> Result<String> {
    let mut text = String::new();
    let Some(name) = name else {
        for setting in SETTINGS {
            text.push_str(&broker_setting(setting));
            text.push('\n');
        }
        text.push_str("Topics have settings of their own; `millpond config explain NAME` tells them, too:\n");
        for config in TOPIC_CONFIGS {
            text.push_str(&format!("  {}\n", config.name));
        }
        return Ok(text);
    };
    let setting = SETTINGS.iter().find(|setting| setting.name == name);
    let config = TOPIC_CONFIGS.iter().find(|config| config.name == name);
    text.extend(setting.map(broker_setting));
    text.extend(config.map(topic_setting));
    if text.is_empty() {
        let names = SETTINGS.iter().map(|setting| setting.name).chain(TOPIC_CONFIGS.iter().map(|config| config.name));
        let near = or_nearest(name, names, "; `millpond config explain` names them all");
        bail!("there is no setting '{name}'{near}");
    }
    Ok(text)
}

fn broker_setting(setting: &Setting) -> String {
    let default = if setting.default.is_empty() { "(empty)" } else { setting.default };
    let unit = match setting.kind {
        Kind::Whole { unit, .. } if !unit.is_empty() => unit,
        _ => "none",
    };
    let mut text = format!("{}\n  {}\n  value:   {}\n", setting.name, setting.about, setting.kind);
    text.push_str(&format!("  unit:    {unit}\n  default: {default}\n"));
    match setting.topic {
        Some(topic) if topic == setting.name => text.push_str("  default of the topic setting of the same name\n"),
        Some(topic) => text.push_str(&format!("  default of the topic setting {topic}\n")),
        None => {}
    }
    text
}

fn topic_setting(config: &TopicConfig) -> String {
    let default = if config.default.is_empty() { "(empty)" } else { config.default };
    let support = match config.support {
        Support::Honoured => "honoured".to_owned(),
        Support::Recorded(why) => format!("recorded: {why}"),
        Support::Refused(why) => format!("refused unless it is the default: {why}"),
    };
    let mut text = format!("{} (of a topic)\n  {}\n", config.name, config.documentation);
    text.push_str(&format!("  type:    {}\n  default: {default}\n  support: {support}\n", type_name(config)));
    if SETTINGS.iter().any(|setting| setting.topic == Some(config.name)) {
        text.push_str(&format!("  its default is the broker setting {}\n", config.broker_name));
    }
    text
}

fn type_name(config: &TopicConfig) -> String {
    format!("{:?}", config.kind).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_explained_with_meaning_unit_default_and_range() {
        let all = explain(None).expect("all settings");
        for setting in SETTINGS {
            let one = explain(Some(setting.name)).expect(setting.name);
            assert!(one.contains(setting.about) && one.contains(&setting.kind.to_string()), "{one}");
            assert!(one.contains("default: ") && one.contains("unit: "), "{one}");
            assert!(all.contains(&broker_setting(setting)));
        }
        for config in TOPIC_CONFIGS {
            assert!(explain(Some(config.name)).expect(config.name).contains(config.documentation));
        }
        let cross = explain(Some("message.max.bytes")).expect("it is one");
        assert!(cross.contains("default of the topic setting max.message.bytes"), "{cross}");
        assert!(explain(Some("max.message.bytes")).expect("it is one").contains("broker setting message.max.bytes"));
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest() {
        let error = explain(Some("num.partition")).expect_err("unknown").to_string();
        assert_eq!(error, "there is no setting 'num.partition'; the nearest is 'num.partitions'");
        let error = explain(Some("")).expect_err("unknown").to_string();
        assert_eq!(error, "there is no setting ''; `millpond config explain` names them all");
    }
}
