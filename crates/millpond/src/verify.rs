//! `millpond verify`: prints what the storage layer finds in a stopped broker's data directory.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use millpond_runtime::RealDisk;
use millpond_storage::{Finding, Severity, VerifySummary, verify};

use crate::arguments::VerifyArguments;
use crate::output::{Output, quiet};

/// Verifies the data directory. It fails when there is none, or it is in use; damage is an exit status of 1.
pub(crate) fn run(arguments: &VerifyArguments) -> Result<ExitCode> {
    let mut out = Output::stdout();
    let mut printed = Ok(());
    let summary = verify(&*RealDisk::shared(), &arguments.data_dir, &mut |finding| {
        if printed.is_ok() {
            printed = out.line(&line(finding));
        }
    })?;
    quiet(printed.and_then(|()| end(&mut out, &summary)))?;
    Ok(if summary.damages == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Damage => "damage",
        Severity::NeedsRecovery => "needs recovery",
        Severity::Note => "note",
    };
    format!("{severity}: {finding}")
}

fn end(out: &mut Output, summary: &VerifySummary) -> io::Result<()> {
    out.line(&sentences(summary))?;
    out.flush()
}

fn sentences(summary: &VerifySummary) -> String {
    let read = format!(
        "{} partitions, {} segments with {} batches ({} records, {} bytes), {} producer snapshots and {} \
         journal records in {} files were read.",
        summary.groups,
        summary.segments,
        summary.batches,
        summary.records,
        summary.segment_bytes,
        summary.snapshots,
        summary.journal_records,
        summary.journal_files,
    );
    let verdict = match (summary.damages, summary.clean_stop, summary.recoveries) {
        (0, true, 0) => "The last stop was clean, and everything is as it was written.".to_owned(),
        (0, true, _) => "The last stop was clean; what needs recovery is mended when it is used.".to_owned(),
        (0, false, _) => "The last stop was not clean: the next start recovers, and nothing is damaged.".to_owned(),
        (1, ..) => "1 place is DAMAGED.".to_owned(),
        (damages, ..) => format!("{damages} places are DAMAGED."),
    };
    format!("{read} {verdict}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_in_one_line_how_it_ended() {
        let clean = VerifySummary { clean_stop: true, groups: 2, ..VerifySummary::default() };
        assert!(sentences(&clean).starts_with("2 partitions,") && sentences(&clean).contains("as it was written"));
        let killed = VerifySummary { recoveries: 3, ..VerifySummary::default() };
        assert!(sentences(&killed).contains("the next start recovers"));
        let damaged = VerifySummary { damages: 2, ..clean };
        assert!(sentences(&damaged).ends_with("2 places are DAMAGED."));
    }
}
