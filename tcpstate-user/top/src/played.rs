//! A recording that is played: where it is, and its keys.

use std::time::Duration;

use crossterm::event::KeyCode;
use jiff::{
    Timestamp, ToSpan as _,
    civil::{DateTime, Time},
    tz::TimeZone,
};
use tcpstate_core::{
    diagnosis::{Finding, Place},
    duration::nanoseconds,
    origin::Origin,
    play::{Command, Position},
    present::RunSnapshot,
    quantity::parse_duration,
    units::Span,
};

/// The length of a jump by a key, nanoseconds.
const JUMP_NS: i64 = 10_000_000_000;

/// The keys with what they do, as the page of help shows them.
pub(crate) const KEYS: &[(&str, &str)] = &[
    ("Space", "pause, and go on"),
    (". ,", "the next event, the next interval; then it pauses"),
    ("< >", "10 s back, 10 s ahead"),
    (
        "t",
        "to a time, such as 12:30, 12:30:05 or 2026-11-01 12:30, or by one: +90s, -5m",
    ),
    ("n", "to the next finding; any key breaks it off"),
    (
        "[ ]",
        "slower, faster: 0.1x to 1000x, and as fast as possible",
    ),
];

/// The identity of a finding, the same at two checks.
type Identity = (&'static str, Place);

/// A recording that is played.
#[derive(Clone, Debug, Default)]
pub(crate) struct Played {
    /// `None` before it has begun.
    position: Option<Position>,
    /// On the way to the next finding: those that were there before.
    known: Option<Vec<Identity>>,
}

impl Played {
    /// Takes the position. Whether it is another one.
    pub(crate) fn take(&mut self, position: Position) -> bool {
        self.position.replace(position) != Some(position)
    }

    /// The command of a key; `None` for the keys that it has not.
    pub(crate) fn key(&mut self, key: KeyCode, shown: Option<&RunSnapshot>) -> Option<Command> {
        self.known = None;
        let position = self.position.as_mut()?;
        let command = match key {
            KeyCode::Char(' ') if position.is_paused => Command::Resume,
            KeyCode::Char(' ') => Command::Pause,
            KeyCode::Char('.') => Command::StepEvent,
            KeyCode::Char(',') => Command::StepTick,
            KeyCode::Char('<') => Command::SeekBy(-JUMP_NS),
            KeyCode::Char('>') => Command::SeekBy(JUMP_NS),
            KeyCode::Char('[') => Command::Speed(position.speed.slower()),
            KeyCode::Char(']') => Command::Speed(position.speed.faster()),
            KeyCode::Char('n') => {
                let findings = shown.and_then(|shown| shown.findings.as_deref());
                let identities = findings.unwrap_or_default().iter().map(Finding::identity);
                self.known = Some(identities.collect());
                Command::StepTick
            }
            _ => return None,
        };
        // The next key may come before the player has told it.
        match command {
            Command::Speed(speed) => position.speed = speed,
            Command::Resume => position.is_paused = false,
            Command::Pause => position.is_paused = true,
            _ => {}
        }
        Some(command)
    }

    /// Goes on to the next finding, unless this snapshot has it.
    pub(crate) fn go_on(&mut self, shown: &RunSnapshot) -> Option<Command> {
        let known = self.known.as_mut()?;
        let findings = shown.findings.as_deref().unwrap_or_default();
        let mut identities = findings.iter().map(Finding::identity);
        let is_found = identities.any(|identity| !known.contains(&identity));
        let is_at_end = self.position.is_some_and(|position| position.is_at_end);
        if is_found || is_at_end || shown.is_final {
            self.known = None;
            return None;
        }
        // One that has gone is a new one when it comes again.
        known.retain(|known| findings.iter().any(|one| one.identity() == *known));
        Some(Command::StepTick)
    }

    /// Where it is, in a few words.
    pub(crate) fn words(&self) -> Option<String> {
        let position = self.position?;
        let state = if self.known.is_some() {
            "looking for a finding"
        } else if position.is_seeking {
            "seeking"
        } else if position.is_at_end {
            "at the end"
        } else if position.is_paused {
            "PAUSED"
        } else {
            "playing"
        };
        let words = format!("{state} {}", position.speed);
        if let (Some(part), Some(end_ns)) = (position.fraction(), position.end_ns) {
            let length = Span(end_ns.saturating_sub(position.start_ns));
            let percent = part * 100.0;
            return Some(format!("{words}, {percent:.0} % of {length}"));
        }
        Some(words)
    }

    /// The command to go to a time that was typed in.
    ///
    /// *Errors:* it is none, in words.
    pub(crate) fn go_to(
        &self,
        text: &str,
        shown: Option<&RunSnapshot>,
        zone: &TimeZone,
    ) -> Result<Command, String> {
        let text = text.trim();
        let by = |rest: &str| {
            let duration: Duration = parse_duration(rest).map_err(|error| error.to_string())?;
            i64::try_from(nanoseconds(duration)).map_err(|_| "it is too long".to_owned())
        };
        if let Some(rest) = text.strip_prefix('+') {
            return Ok(Command::SeekBy(by(rest)?));
        }
        if let Some(rest) = text.strip_prefix('-') {
            return Ok(Command::SeekBy(-by(rest)?));
        }
        let (Some(position), Some(shown)) = (self.position, shown) else {
            return Err("it has not begun".to_owned());
        };
        let at = moment(text, &shown.origin, position, zone);
        at.map(Command::SeekTo).ok_or_else(|| {
            "it is no time: 12:30, 12:30:05, 2026-11-01 12:30, +90s or -5m".to_owned()
        })
    }
}

/// The position of a local time. A time of day is that of the first day of the recording, or of the next one.
fn moment(text: &str, origin: &Origin, position: Position, zone: &TimeZone) -> Option<u64> {
    let monotonic = |local: DateTime| {
        let wall_ns = zone.to_timestamp(local).ok()?.as_nanosecond();
        let since = wall_ns.saturating_sub(origin.wall_at_monotonic_zero_ns.into());
        u64::try_from(since.max(0)).ok()
    };
    let Ok(time) = text.parse::<Time>() else {
        return monotonic(text.parse().ok()?);
    };
    let begin = Timestamp::from_nanosecond(origin.wall_ns(position.start_ns).into()).ok()?;
    let day = begin.to_zoned(zone.clone()).date();
    let today = monotonic(day.to_datetime(time))?;
    if today >= position.start_ns {
        return Some(today);
    }
    monotonic(day.checked_add(1.days()).ok()?.to_datetime(time))
}
