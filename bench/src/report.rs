//! The table, which is plain text and Markdown at once, and the figures as JSON.

use std::fmt::Write;

use crate::candidates::Candidate;
use crate::measures::{Sample, figure, medians, ratio};
use crate::scenarios::Scenario;

/// The samples of one scenario: for each candidate, every run.
pub(crate) struct Measured<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) runs: Vec<Vec<Sample>>,
}

impl Measured<'_> {
    /// The medians of each candidate; empty for one that could not.
    pub(crate) fn medians(&self) -> Vec<Sample> {
        self.runs.iter().map(|samples| medians(samples)).collect()
    }
}

/// Medians side by side, and ours by the limit's, each peer's and socat's.
pub(crate) fn table(candidates: &[Candidate], measured: &[Measured<'_>]) -> String {
    let Some(ours) = candidates.iter().position(Candidate::is_ours) else {
        return "Nothing was measured.\n".to_owned();
    };
    let compared =
        |candidate: &Candidate| candidate.is_limit() || candidate.is_peer() || candidate.is_socat();
    let others: Vec<usize> = (0..candidates.len()).filter(|&n| compared(&candidates[n])).collect();

    let mut head = vec!["scenario".to_owned(), "measure".to_owned()];
    head.extend(candidates.iter().map(|candidate| candidate.name.clone()));
    head.extend(others.iter().map(|&n| format!("{} / {}", candidates[ours].name, candidates[n].name)));
    let mut rows = vec![head];
    for measured in measured {
        let medians = measured.medians();
        let Some(kinds) = medians.iter().find(|sample| !sample.is_empty()) else { continue };
        for (n, (measure, _)) in kinds.iter().enumerate() {
            let title = if n == 0 { measured.scenario.title.clone() } else { String::new() };
            let mut row = vec![title, measure.name().to_owned()];
            let values: Vec<_> = medians.iter().map(|sample| figure(sample, *measure)).collect();
            row.extend(values.iter().map(|value| match value {
                Some(value) => measure.show(*value),
                None => "–".to_owned(),
            }));
            row.extend(others.iter().map(|&other| match (values[ours], values[other]) {
                (Some(value), Some(by)) if measure.has_ratio() => ratio(value, by),
                _ => "–".to_owned(),
            }));
            rows.push(row);
        }
    }
    aligned(&rows)
}

/// The rows with a line below the first; figures to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default().max(3))
        .collect();
    let mut text = String::new();
    for (n, row) in rows.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ =
                if column < 2 { write!(text, "| {cell:width$} ") } else { write!(text, "| {cell:>width$} ") };
        }
        text.push_str("|\n");
        if n == 0 {
            for (column, width) in widths.iter().enumerate() {
                let line = "-".repeat(width + 1);
                let _ = if column < 2 { write!(text, "|-{line}") } else { write!(text, "|{line}:") };
            }
            text.push_str("|\n");
        }
    }
    text
}

/// Every figure of every run, in base units: bits a second, seconds, bytes, per cent.
pub(crate) fn json(machine: &str, candidates: &[Candidate], measured: &[Measured<'_>]) -> String {
    let mut entries = Vec::new();
    for measured in measured {
        for (candidate, (runs, median)) in candidates.iter().zip(measured.runs.iter().zip(measured.medians()))
        {
            for (n, (measure, median)) in median.iter().enumerate() {
                let values: Vec<String> = runs.iter().map(|sample| sample[n].1.to_string()).collect();
                entries.push(format!(
                    "{{\"scenario\":{},\"candidate\":{},\"measure\":{},\"median\":{median},\"runs\":[{}]}}",
                    quoted(&measured.scenario.name),
                    quoted(&candidate.name),
                    quoted(measure.name()),
                    values.join(",")
                ));
            }
        }
    }
    format!("{{\"machine\":{},\"figures\":[\n{}\n]}}\n", quoted(machine), entries.join(",\n"))
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push(' '),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
