//! The kinds of figures, and how they are written.

/// One kind of figure, in its base unit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Payload that arrived, in bits a second, at all receivers together.
    Throughput,
    /// Payload that was sent, in bits a second.
    Sent,
    /// Per cent of what was sent.
    Arrived,
    /// Per cent of what was sent that reached the client which got the least.
    Least,
    /// Per cent of what was sent that reached the client in the middle.
    MedianClient,
    /// Processor time of the program and its children, in per cent of one core.
    ProcessorShare,
    /// Seconds of processor time for each line that arrived.
    ProcessorPerLine,
    /// Seconds of processor time for each datagram that arrived, at every receiver.
    Processor,
    /// Seconds of processor time for each gigabyte.
    ProcessorPerGigabyte,
    /// Seconds one way, in half of all cases.
    Median,
    /// Seconds one way, in 99 of 100 cases.
    Slowest,
    /// The most memory that was held, in bytes.
    Memory,
    /// The memory that no other process shares, of the program and its children, in bytes.
    OwnMemory,
    /// Bytes of the program.
    Size,
}

impl Measure {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Sent => "sent",
            Self::Arrived => "arrived",
            Self::Least => "arrived, worst client",
            Self::MedianClient => "arrived, median client",
            Self::ProcessorShare => "CPU of one core",
            Self::ProcessorPerLine => "CPU per line",
            Self::Processor => "CPU per datagram",
            Self::ProcessorPerGigabyte => "CPU per GB",
            Self::Median => "latency, p50",
            Self::Slowest => "latency, p99",
            Self::Memory => "memory (RSS)",
            Self::OwnMemory => "memory (own)",
            Self::Size => "program size",
        }
    }

    pub(crate) fn less_is_better(self) -> bool {
        !matches!(self, Self::Throughput | Self::Sent) && self.has_ratio()
    }

    /// Whether the ratio of two figures says something.
    pub(crate) fn has_ratio(self) -> bool {
        !matches!(self, Self::Arrived | Self::Least | Self::MedianClient)
    }

    /// The figure with a unit.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Self::Throughput | Self::Sent if value < 999.5e6 => format!("{:.0} Mbit/s", value / 1e6),
            Self::Throughput | Self::Sent => format!("{:.2} Gbit/s", value / 1e9),
            // Never 100 for what is less.
            Self::Arrived | Self::Least | Self::MedianClient if value >= 100.0 => "100 %".to_owned(),
            Self::Arrived | Self::Least | Self::MedianClient => {
                format!("{:.1} %", (value * 10.0).floor() / 10.0)
            }
            Self::ProcessorShare => format!("{value:.1} %"),
            Self::Processor if value < 10e-6 => format!("{:.3} µs", value * 1e6),
            Self::Processor | Self::ProcessorPerLine | Self::Median | Self::Slowest => {
                format!("{:.1} µs", value * 1e6)
            }
            Self::ProcessorPerGigabyte => format!("{value:.2} s"),
            Self::Memory | Self::OwnMemory => format!("{:.1} MB", value / 1e6),
            Self::Size => format!("{:.0} kB", value / 1e3),
        }
    }
}

/// The figures of one run, or the medians of several: what the scenario is about first.
pub(crate) type Sample = Vec<(Measure, f64)>;

/// The median of each figure.
pub(crate) fn medians(samples: &[Sample]) -> Sample {
    let Some(first) = samples.first() else { return Vec::new() };
    let each = first.iter().enumerate().map(|(n, (measure, _))| {
        let mut values: Vec<f64> = samples.iter().map(|sample| sample[n].1).collect();
        values.sort_unstable_by(f64::total_cmp);
        let upper = values.len() / 2;
        let lower = (values.len() - 1) / 2;
        (*measure, f64::midpoint(values[lower], values[upper]))
    });
    each.collect()
}

/// The figure of this kind.
pub(crate) fn figure(sample: &Sample, measure: Measure) -> Option<f64> {
    sample.iter().find(|(kind, _)| *kind == measure).map(|(_, value)| *value)
}

/// One figure by another, as short as it says something.
pub(crate) fn ratio(value: f64, by: f64) -> String {
    let ratio = value / by;
    match ratio {
        _ if !ratio.is_finite() => "–".to_owned(),
        10.0.. => format!("{ratio:.0}×"),
        2.0.. => format!("{ratio:.1}×"),
        _ => format!("{ratio:.2}×"),
    }
}
