//! `millpond verify`: prints what the storage layer finds in a stopped broker's data directory.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Result, bail};
use millpond_runtime::RealDisk;
use millpond_storage::{CompareSummary, Finding, Severity, VerifySummary, compare, verify};

use crate::arguments::VerifyArguments;
use crate::output::{Output, quiet};

/// Verifies the data directory, or those of a cluster, which are then compared. It fails when there is none, or it is
/// in use; damage and differences are an exit status of 1.
pub(crate) fn run(arguments: &VerifyArguments) -> Result<ExitCode> {
    let directories = &arguments.data_dir;
    if !arguments.cluster && directories.len() > 1 {
        bail!("verify takes one --data-dir; with --cluster it takes those of a cluster's brokers and compares them");
    }
    if arguments.cluster && directories.len() < 2 {
        bail!("verify --cluster compares the directories of two or more brokers: give --data-dir once for each");
    }
    let (disk, mut out) = (RealDisk::shared(), Output::stdout());
    let mut is_right = true;
    for directory in directories {
        let mut printed = Ok(());
        let summary = verify(&*disk, directory, &mut |finding| {
            if printed.is_ok() {
                printed = out.line(&line(finding));
            }
        })?;
        let sentences = sentences(&summary);
        let sentences = if arguments.cluster { format!("{}: {sentences}", directory.display()) } else { sentences };
        quiet(printed.and_then(|()| end(&mut out, &sentences)))?;
        is_right &= summary.damages == 0;
    }
    if arguments.cluster {
        let mut printed = Ok(());
        let summary = compare(&*disk, directories, &mut |difference| {
            if printed.is_ok() {
                printed = out.line(&format!("difference: {difference}"));
            }
        })?;
        quiet(printed.and_then(|()| end(&mut out, &compared(&summary))))?;
        is_right &= summary.differences == 0;
    }
    Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Damage => "damage",
        Severity::NeedsRecovery => "needs recovery",
        Severity::Note => "note",
    };
    format!("{severity}: {finding}")
}

fn end(out: &mut Output, sentences: &str) -> io::Result<()> {
    out.line(sentences)?;
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

fn compared(summary: &CompareSummary) -> String {
    let CompareSummary { groups, replicas, alone, left_out, entries, bytes, not_compared, differences } = summary;
    let mut said =
        format!("{replicas} replicas of {groups} partitions were compared: {entries} entries, {bytes} bytes.");
    let mut tell = |number: &u64, what: &str| {
        if *number > 0 {
            said.push_str(&format!(" {number} {what}"));
        }
    };
    tell(alone, "partitions are in one directory only.");
    tell(left_out, "replicas were left out: they are set aside, or not started since they were filled.");
    tell(
        not_compared,
        "entries were not compared: a replica lacks them, or does not know yet that they are committed.",
    );
    match differences {
        0 => said.push_str(" All that was compared is equal."),
        1 => said.push_str(" 1 replica DIFFERS."),
        _ => said.push_str(&format!(" {differences} replicas DIFFER.")),
    }
    said
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

    #[test]
    fn the_comparison_says_what_was_left_out_and_whether_anything_differs() {
        let equal = CompareSummary { groups: 2, replicas: 6, entries: 9, bytes: 700, ..CompareSummary::default() };
        let said = compared(&equal);
        assert_eq!(
            said,
            "6 replicas of 2 partitions were compared: 9 entries, 700 bytes. All that was compared is equal."
        );
        let other = CompareSummary { not_compared: 4, differences: 1, ..equal };
        assert!(
            compared(&other).contains(" 4 entries were not compared")
                && compared(&other).ends_with("1 replica DIFFERS.")
        );
    }
}
