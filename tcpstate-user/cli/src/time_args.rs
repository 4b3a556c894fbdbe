//! The times at the beginning of lines.

use clap::{Args, builder::TypedValueParser};
use tcpstate_core::options::TimeForm;

use crate::{
    choice::{Choices, choice},
    headings::OUTPUT,
};

/// The times at the beginning of lines.
// No `next_help_heading`: it would also apply to the groups flattened after this one.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct TimeArgs {
    /// Begin each line with the local time of day
    #[arg(
        short = 'T',
        long,
        value_name = "FORM",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "s",
        value_parser = time_form(),
        conflicts_with_all = ["json", "csv"],
        help_heading = OUTPUT
    )]
    pub time: Option<TimeForm>,
    /// Begin each line with the seconds since the start
    #[arg(short = 't', long, conflicts_with_all = ["json", "csv"], help_heading = OUTPUT)]
    pub timestamp: bool,
}

/// The form of times.
pub(crate) fn time_form() -> impl TypedValueParser<Value = TimeForm> {
    choice(FORMS)
}

const FORMS: Choices<TimeForm> = &[
    (TimeForm::Seconds, "s", "12:34:56"),
    (TimeForm::Milliseconds, "ms", "12:34:56.789"),
    (TimeForm::Microseconds, "us", "12:34:56.789012"),
    (TimeForm::Date, "date", "2026-01-31 12:34:56"),
    (TimeForm::Full, "full", "2026-01-31 12:34:56.789012"),
];
