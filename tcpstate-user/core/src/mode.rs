//! The attach modes. Nothing here knows the kernel, so that the command line can name them.

use std::{fmt, str::FromStr};

/// The way in which a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// BTF tracepoint: the socket itself, by direct loads.
    Btf,
    /// Classic tracepoint: the tracepoint's record.
    Tracepoint,
}

impl Mode {
    /// Its name on the command line and in a recording.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Btf => "btf",
            Self::Tracepoint => "tracepoint",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The choice of a mode, as `--attach` states it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// The best that the host allows: `auto`.
    #[default]
    Auto,
    /// This mode or none.
    Only(Mode),
}

impl Attach {
    /// All of them, the default first.
    pub const ALL: [Self; 3] = [
        Self::Auto,
        Self::Only(Mode::Btf),
        Self::Only(Mode::Tracepoint),
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Only(mode) => mode.name(),
        }
    }
}

impl fmt::Display for Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no attach mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is auto, btf or tracepoint")]
pub struct UnknownAttachError;

impl FromStr for Attach {
    type Err = UnknownAttachError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|attach| attach.name() == text)
            .ok_or(UnknownAttachError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attach_is_read_back_by_its_name() {
        for attach in Attach::ALL {
            assert_eq!(attach.to_string().parse(), Ok(attach));
        }
        for text in ["", "AUTO", "btf ", "only"] {
            assert_eq!(text.parse::<Attach>(), Err(UnknownAttachError), "{text:?}");
        }
    }
}
