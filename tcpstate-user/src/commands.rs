//! A file per command: its arguments in, its view out.

pub(crate) mod diagnose;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod help;
pub(crate) mod hist;
pub(crate) mod life;
pub(crate) mod ls;
pub(crate) mod rates;
pub(crate) mod record;
#[cfg(feature = "serve")]
pub(crate) mod serve;
pub(crate) mod top;
pub(crate) mod trace;
