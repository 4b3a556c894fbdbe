//! A census from JSON, in a fraction of the time that a parser of any JSON takes: there can be a million minisockets,
//! each in several censuses.
//!
//! The lists of minisockets are read in the form in which this crate writes them, the rest by `serde_json`, and all of it
//! where anything is written in another way. So the result is that of `serde_json`, whatever the bytes are.

use std::net::{IpAddr, Ipv4Addr};

use tcpstate_common::State;
use tcpstate_core::{
    census::{Census, Found, Gone, Kind},
    owner::Owner,
    service::Role,
};

use crate::packing::Malformed;

/// The census in these bytes.
///
/// *Errors:* they are none.
pub(crate) fn from_json(json: &[u8]) -> Result<Census, Malformed> {
    if let Some(census) = as_written(json) {
        return Ok(census);
    }
    serde_json::from_slice(json).map_err(|_| Malformed)
}

/// The census, if its lists are written as here; `None`: they are not, or it is none.
fn as_written(json: &[u8]) -> Option<Census> {
    let mut from = Scan(json);
    from.literal(b"{\"netns\":")?;
    let netns = from.number()?;
    from.literal(b",\"begin_ns\":")?;
    let begin_ns = from.number()?;
    from.literal(b",\"previous_ns\":")?;
    let previous_ns = if from.has(b"null") {
        None
    } else {
        Some(from.number()?)
    };
    // The rest has what was taken, as empty as it may be: so it is refused if it has it again.
    let mut rest = b"{\"netns\":0,\"begin_ns\":0,\"previous_ns\":null".to_vec();
    let found = from.list(b",\"found\":[", Scan::found)?;
    if !found.is_empty() {
        rest.extend_from_slice(b",\"found\":[]");
    }
    let gone = from.list(b",\"gone\":[", Scan::gone)?;
    if !gone.is_empty() {
        rest.extend_from_slice(b",\"gone\":[]");
    }
    // Without lists there is nothing to gain.
    if found.is_empty() && gone.is_empty() {
        return None;
    }
    rest.extend_from_slice(from.0);
    let rest: Census = serde_json::from_slice(&rest).ok()?;
    (rest.found.is_empty() && rest.gone.is_empty()).then_some(Census {
        netns,
        begin_ns,
        previous_ns,
        found,
        gone,
        ..rest
    })
}

/// The bytes that are left.
struct Scan<'a>(&'a [u8]);

impl Scan<'_> {
    /// Takes these bytes, if they are next.
    fn has(&mut self, literal: &[u8]) -> bool {
        match self.0.strip_prefix(literal) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn literal(&mut self, literal: &[u8]) -> Option<()> {
        self.has(literal).then_some(())
    }

    /// A number without sign, fraction, exponent and leading zeros.
    fn number<T: TryFrom<u64>>(&mut self) -> Option<T> {
        let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit());
        let length = digits.count();
        let (digits, rest) = self.0.split_at_checked(length)?;
        let number = match digits {
            [] | [b'0', _, ..] => return None,
            // So many fit.
            digits if length < 20 => digits.iter().fold(0, |number, digit| {
                number * 10 + u64::from(digit.wrapping_sub(b'0'))
            }),
            digits => str::from_utf8(digits).ok()?.parse().ok()?,
        };
        self.0 = rest;
        number.try_into().ok()
    }

    /// A number behind this literal, which may be missing.
    #[expect(clippy::option_option, reason = "malformed, left out, or there")]
    fn optional<T: TryFrom<u64>>(&mut self, literal: &[u8]) -> Option<Option<T>> {
        if self.has(literal) {
            self.number().map(Some)
        } else {
            Some(None)
        }
    }

    /// A list behind this literal; an empty one where that is missing.
    fn list<T>(&mut self, literal: &[u8], item: fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut list = Vec::new();
        if !self.has(literal) {
            return Some(list);
        }
        loop {
            list.push(item(self)?);
            if !self.has(b",") {
                break;
            }
        }
        self.literal(b"]")?;
        Some(list)
    }

    fn address(&mut self) -> Option<IpAddr> {
        self.literal(b"\"")?;
        let length = self.0.iter().position(|&byte| byte == b'"')?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        self.literal(b"\"")?;
        if let Some(address) = ipv4(text) {
            return Some(address.into());
        }
        str::from_utf8(text).ok()?.parse().ok()
    }

    fn found(&mut self) -> Option<Found> {
        self.literal(b"{\"cookie\":")?;
        let cookie = self.number()?;
        self.literal(b",\"state\":")?;
        let state = State(self.number()?);
        self.literal(b",\"kind\":\"minisocket\"")?;
        let since_ns = self.optional(b",\"since_ns\":")?;
        let there_ns = self.optional(b",\"there_ns\":")?;
        self.literal(b",\"family\":")?;
        let family = self.number()?;
        self.literal(b",\"laddr\":")?;
        let laddr = self.address()?;
        self.literal(b",\"lport\":")?;
        let lport = self.number()?;
        self.literal(b",\"raddr\":")?;
        let raddr = self.address()?;
        self.literal(b",\"rport\":")?;
        let rport = self.number()?;
        let role = if self.has(b",\"role\":\"client\"") {
            Role::Client
        } else if self.has(b",\"role\":\"server\"") {
            Role::Server
        } else {
            Role::Unknown
        };
        let uid = self.optional(b",\"uid\":")?;
        let cgroup = self.optional(b",\"cgroup\":")?;
        self.literal(b"}")?;
        Some(Found {
            cookie,
            state,
            kind: Kind::Minisocket,
            since_ns,
            there_ns,
            family,
            laddr,
            lport,
            raddr,
            rport,
            role,
            uid,
            cgroup,
            owner: Owner::default(),
        })
    }

    fn gone(&mut self) -> Option<Gone> {
        self.literal(b"{\"cookie\":")?;
        let cookie = self.number()?;
        self.literal(b",\"at_ns\":")?;
        let at_ns = self.number()?;
        self.literal(b"}")?;
        Some(Gone { cookie, at_ns })
    }
}

/// An IPv4 address as it is printed.
fn ipv4(text: &[u8]) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut from = Scan(text);
    for (at, octet) in octets.iter_mut().enumerate() {
        if at > 0 {
            from.literal(b".")?;
        }
        let digits = from.0.iter().take_while(|byte| byte.is_ascii_digit());
        let (digits, rest) = from.0.split_at_checked(digits.count())?;
        from.0 = rest;
        if let [] | [b'0', _, ..] | [_, _, _, _, ..] = digits {
            return None;
        }
        let number = digits.iter().fold(0_u16, |number, digit| {
            number * 10 + u16::from(digit.wrapping_sub(b'0'))
        });
        *octet = u8::try_from(number).ok()?;
    }
    from.0.is_empty().then(|| octets.into())
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};
    use tcpstate_core::census::{HalfOpen, ListenFigures, Scope};

    use super::*;

    prop_compose! {
        fn sockets()(
            (cookie, state) in (any::<u64>(), 0..14_u8),
            kind in prop_oneof![9 => Just(Kind::Minisocket), 1 => Just(Kind::Socket)],
            (since_ns, there_ns) in (option::of(any::<u64>()), option::of(any::<u64>())),
            family in prop_oneof![Just(2), Just(10)],
            (laddr, raddr) in (any::<IpAddr>(), any::<IpAddr>()),
            (lport, rport) in (any::<u16>(), any::<u16>()),
            role in prop_oneof![Just(Role::Unknown), Just(Role::Client), Just(Role::Server)],
            (uid, cgroup) in (option::of(any::<u32>()), option::of(any::<u64>())),
        ) -> Found {
            let state = State(state);
            let owner = Owner::default();
            Found {
                cookie, state, kind, since_ns, there_ns, family, laddr, lport, raddr, rport, role, uid, cgroup, owner,
            }
        }
    }

    prop_compose! {
        fn censuses()(
            (netns, begin_ns, previous_ns) in (any::<u32>(), any::<u64>(), option::of(any::<u64>())),
            scope in prop_oneof![9 => Just(Scope::Small), 1 => Just(Scope::All)],
            found in vec(sockets(), 0..4),
            gone in vec((any::<u64>(), any::<u64>()), 0..4),
            places in 0..2_usize,
            drops in option::of(any::<u64>()),
            more: bool,
        ) -> Census {
            let half_open = |lport| HalfOpen {
                laddr: [127, 0, 0, 1].into(),
                lport,
                count: 1,
                oldest_ns: None,
                oldest_at_least_ns: Some(1),
                synack_retransmits: 0,
            };
            Census {
                netns,
                begin_ns,
                previous_ns,
                scope,
                found,
                gone: gone.into_iter().map(|(cookie, at_ns)| Gone { cookie, at_ns }).collect(),
                half_open: vec![half_open(80); places],
                listen: ListenFigures { drops, ..ListenFigures::default() },
                more,
                ..Census::default()
            }
        }
    }

    /// As `serde_json` reads it.
    fn plainly(json: &[u8]) -> Result<Census, Malformed> {
        serde_json::from_slice(json).map_err(|_| Malformed)
    }

    proptest! {
        #[test]
        fn a_census_is_read_as_it_was_written(census in censuses()) {
            let json = serde_json::to_vec(&census).unwrap();
            prop_assert_eq!(from_json(&json), Ok(census.clone()));
            let is_usual = census.scope == Scope::Small
                && census.found.iter().all(|found| found.kind == Kind::Minisocket)
                && census.found.len() + census.gone.len() > 0;
            prop_assert_eq!(as_written(&json).is_some(), is_usual);
        }

        #[test]
        fn a_changed_census_is_read_as_any_json(
            census in censuses(),
            at in any::<prop::sample::Index>(),
            byte in prop_oneof![any::<u8>(), Just(b'0'), Just(b' '), Just(b'.'), Just(b'\\'), Just(b'"')],
            is_inserted: bool,
        ) {
            let mut json = serde_json::to_vec(&census).unwrap();
            let at = at.index(json.len());
            if is_inserted {
                json.insert(at, byte);
            } else {
                json[at] = byte;
            }
            prop_assert_eq!(from_json(&json), plainly(&json), "{}", String::from_utf8_lossy(&json));
            json.truncate(at);
            prop_assert_eq!(from_json(&json), plainly(&json));
        }
    }

    #[test]
    fn what_stands_there_twice_is_malformed() {
        for more in [
            r#","gone":[{"cookie":2,"at_ns":3}]}"#,
            r#","gone":[]}"#,
            r#","netns":1}"#,
            "}}",
            "} 1",
        ] {
            let json = format!(
                r#"{{"netns":1,"begin_ns":2,"previous_ns":3,"gone":[{{"cookie":1,"at_ns":2}}]{more}"#
            );
            assert_eq!(from_json(json.as_bytes()), Err(Malformed), "{json}");
        }
    }
}
