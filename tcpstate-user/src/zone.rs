//! The time zone of the times of day that people read.

use std::{env, ffi::OsStr, fs};

use jiff::tz::TimeZone;

use crate::message::say;

/// More than any file of the time zone database has.
const FILE_BYTES: u64 = 1 << 20;

/// The zone of `TZ`, else that of the system. Where `TZ` names a file that must not be read, such as a device or a
/// FIFO, it is UTC, with a message.
pub(crate) fn system() -> TimeZone {
    match env::var_os("TZ").and_then(|tz| unreadable(&tz)) {
        Some(name) => {
            say(&format!(
                "TZ: {name:?} is no time zone file; times are in UTC"
            ));
            TimeZone::UTC
        }
        None => TimeZone::system(),
    }
}

/// The file that this value of `TZ` names, if reading it might not end.
fn unreadable(tz: &OsStr) -> Option<String> {
    let name = tz.to_str()?;
    let name = name.strip_prefix(':').unwrap_or(name);
    if TimeZone::get(name).is_ok() {
        return None;
    }
    let file = fs::metadata(name).ok()?;
    let readable = file.is_file() && file.len() <= FILE_BYTES;
    (!readable).then(|| name.into())
}
