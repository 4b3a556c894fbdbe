//! The abilities of a host, which `doctor` shows. Types only: capture tries them.

use crate::mode::Mode;

/// Status of one ability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is there.
    Ok,
    /// A part of it is missing.
    Degraded,
    /// It is not there.
    Missing,
}

impl Status {
    /// The word for it, in every output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
        }
    }
}

/// The check of one ability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The name of the ability: lower case, words joined by underscores.
    pub name: &'static str,
    /// Its status.
    pub status: Status,
    /// The finding.
    pub detail: String,
    /// The cost of its absence to the user.
    pub costs: Option<String>,
    /// Advice for the user.
    pub remedy: Option<String>,
}

impl Check {
    /// A check with this finding, whose absence costs nothing that is known yet.
    pub fn new(name: &'static str, status: Status, detail: impl Into<String>) -> Self {
        Self {
            name,
            status,
            detail: detail.into(),
            costs: None,
            remedy: None,
        }
    }

    /// With the cost of the absence.
    #[must_use]
    pub fn costs(mut self, costs: impl Into<String>) -> Self {
        self.costs = Some(costs.into());
        self
    }

    /// With advice.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// All checks of a host.
#[derive(Clone, Debug)]
pub struct Report {
    /// Host name, as `uname -n` prints it.
    pub host: String,
    /// Kernel release, as `uname -r` prints it.
    pub kernel: String,
    /// The checks, each after those that it depends on.
    pub checks: Vec<Check>,
    /// The attach mode that `--attach auto` takes; `None`: `trace` cannot run here.
    pub attach: Option<Mode>,
}
