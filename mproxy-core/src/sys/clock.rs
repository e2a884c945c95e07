//! The clock that wakes threads.

use std::time::Duration;

/// How late a sleep may end. The clock of Windows ticks every 16 ms at most, where there is no better one.
pub(crate) const MAX_OVERSLEEP: Duration = Duration::from_millis(if cfg!(windows) { 40 } else { 10 });
