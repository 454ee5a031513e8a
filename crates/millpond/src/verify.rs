//! `millpond verify`: prints what the storage layer finds in a stopped broker's data directory.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Result, bail};
use millpond_runtime::RealDisk;
use millpond_storage::{CompareSummary, Finding, Severity, VerifySummary, compare, verify};

use crate::arguments::VerifyArguments;
use crate::cluster::counted;
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
        "{}, {} with {} ({}, {}), {} and {} in {} were read.",
        counted(summary.groups, "partition"),
        counted(summary.segments, "segment"),
        counted(summary.batches, "batch"),
        counted(summary.records, "record"),
        counted(summary.segment_bytes, "byte"),
        counted(summary.snapshots, "producer snapshot"),
        counted(summary.journal_records, "journal record"),
        counted(summary.journal_files, "file"),
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
    let mut said = format!(
        "{} of {} were compared: {}, {}.",
        counted(*replicas, "replica"),
        counted(*groups, "partition"),
        counted(*entries, "entry"),
        counted(*bytes, "byte")
    );
    let mut tell = |number: &u64, one: &str, many: &str| match number {
        0 => {}
        1 => said.push_str(&format!(" 1 {one}")),
        _ => said.push_str(&format!(" {number} {many}")),
    };
    tell(alone, "partition is in one directory only.", "partitions are in one directory only.");
    tell(
        left_out,
        "replica was left out: it is set aside, or not started since it was filled.",
        "replicas were left out: they are set aside, or not started since they were filled.",
    );
    tell(
        not_compared,
        "entry was not compared: a replica lacks it, or does not know yet that it is committed.",
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
        let one = VerifySummary { groups: 1, segments: 1, batches: 3, records: 1, journal_files: 1, ..clean };
        assert!(sentences(&one).starts_with("1 partition, 1 segment with 3 batches (1 record, 0 bytes), "));
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
        let one = CompareSummary { groups: 1, entries: 1, alone: 1, left_out: 1, not_compared: 1, ..equal };
        let said = compared(&one);
        assert!(
            said.starts_with("6 replicas of 1 partition were compared: 1 entry, 700 bytes. 1 partition is"),
            "{said}"
        );
        assert!(said.contains(" 1 replica was left out") && said.contains(" 1 entry was not compared"), "{said}");
        let other = CompareSummary { not_compared: 4, differences: 1, ..equal };
        assert!(
            compared(&other).contains(" 4 entries were not compared")
                && compared(&other).ends_with("1 replica DIFFERS.")
        );
    }
}
