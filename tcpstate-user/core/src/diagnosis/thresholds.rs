//! The figures that decide, in one table, each with the reason for its default.

use crate::nearest::nearest;

/// The unit of a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds.
    Time,
    /// A number of things.
    Count,
    /// A rate per second.
    PerSecond,
    /// A part of a whole, in hundredths.
    Percent,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Threshold {
    /// Its name, as in a file of thresholds.
    pub name: &'static str,
    /// Its unit.
    pub unit: Unit,
    /// Its default, in that unit.
    pub default: u64,
    /// The decision that it makes.
    pub decides: &'static str,
    /// Why it has this default.
    pub reason: &'static str,
}

/// No threshold has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown threshold `{name}`{}", similar.map_or_else(String::new, |name| format!("; did you mean `{name}`?")))]
pub struct UnknownThreshold {
    name: String,
    similar: Option<&'static str>,
}

macro_rules! thresholds {
    ($($name:ident: $unit:ident = $default:expr, $decides:literal, $reason:literal;)*) => {
        /// The figures that decide.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Thresholds {
            $(#[doc = $decides] pub $name: u64,)*
        }

        impl Thresholds {
            /// All of them, with their defaults and reasons.
            pub const TABLE: &'static [Threshold] = &[
                $(Threshold {
                    name: stringify!($name),
                    unit: Unit::$unit,
                    default: $default,
                    decides: $decides,
                    reason: $reason,
                },)*
            ];

            /// The defaults.
            pub const DEFAULT: Self = Self { $($name: $default,)* };

            /// The value of the threshold of this name; `None`: none has it.
            pub fn get_mut(&mut self, name: &str) -> Option<&mut u64> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)*
                    _ => None,
                }
            }
        }
    };
}

/// A second, in nanoseconds.
const S: u64 = 1_000_000_000;
/// A millisecond, in nanoseconds.
const MS: u64 = 1_000_000;

thresholds! {
    close_wait_age: Time = 60 * S,
        "The time in `CLOSE_WAIT` after which a socket counts as left behind.",
        "An application that handles the end of its input closes within milliseconds; a long answer that is still \
         sent after the peer's FIN takes seconds.";
    close_wait_count: Count = 3,
        "The number of sockets left behind in `CLOSE_WAIT` from which on it is a leak.",
        "One or two are a stuck request; a leak has no end.";
    fin_wait2_age: Time = 60 * S,
        "The time in `FIN_WAIT2` after which a socket that a process holds counts as left behind.",
        "The kernel would have ended an orphan by then (`tcp_fin_timeout`, 60 s).";
    closing_age: Time = 10 * S,
        "The time in `FIN_WAIT1`, `LAST_ACK` or `CLOSING` after which a socket counts as stuck.",
        "The last ACK takes one round trip; ten seconds are several retransmissions.";
    syn_sent_age: Time = 3 * S,
        "The time in `SYN_SENT` after which a connect counts as hanging.",
        "A SYN is repeated after 1 s and 3 s: two were lost.";
    fin_wait2_count: Count = 3,
        "The number of sockets held in `FIN_WAIT2` from which on it is more than a note.",
        "One or two wait for a peer that is busy.";
    closing_count: Count = 10,
        "The number of a service's sockets stuck while closing from which on it is more than a note.",
        "Some peers of every public service vanish; the kernel ends what they leave.";
    closing_share: Percent = 10,
        "The part of a service's sockets that must be stuck while closing for more than a note.",
        "The same, for a large service.";
    connect_count: Count = 3,
        "The number of connects that hang from which on a destination without any connection is critical.",
        "One or two may be somebody's mistake in an address.";
    silent_share: Percent = 5,
        "The part of a server's connections whose peers must be silent for more than a note.",
        "Clients on the road vanish from every public service; a middlebox or a broken path takes many at once.";
    zero_window_age: Time = 10 * S,
        "The time for which a peer's window is closed after which it counts as one that does not read.",
        "A peer that is merely slower than the sender opens its window again within seconds.";
    zero_window_count: Count = 3,
        "The number of connections whose peers do not read from which on it is more than a note.",
        "One or two may be paused on purpose, as by a player.";
    zero_window_share: Percent = 50,
        "The part of a service's connections whose peers must not read for more than a note.",
        "The same, for a large service: where most peers stop reading, something is stuck.";
    half_open_share: Percent = 75,
        "The part of a listener's backlog that half-open connections must take to count as a flood.",
        "Without SYN cookies the kernel drops SYNs from here on; in peace a handshake takes a round trip.";
    waiting_share: Percent = 25,
        "The part of a listener's backlog that may wait to be accepted while half-open ones count as a flood.",
        "A slow accept() fills this queue first, and then keeps connections half-open too.";
    flood_sources: Count = 10,
        "The number of source addresses from which on half-open connections count as a flood.",
        "Clients that lose their SYN-ACKs are few, and repeat themselves; a flood forges addresses.";
    synack_count: Count = 10,
        "The number of half-open connections whose SYN-ACK was sent again from which on it is more than a note.",
        "Scans and forged SYNs reach every public address.";
    synack_share: Percent = 10,
        "The same, as a part of the service's established connections.",
        "The same, for a large service.";
    orphans_share: Percent = 50,
        "The part of `tcp_max_orphans` that orphans must take for a warning.",
        "From half on, the kernel may count an orphan twice or four times, and end it early.";
    ports_share: Percent = 80,
        "The part of the local ports that must be taken for a warning.",
        "The search for a free port becomes slow, and a burst takes the rest.";
    unshared_share: Percent = 90,
        "The part of the clients' sockets that must have a local port of their own to count as bound before the connect.",
        "connect() gives the same ports to connections to several destinations, and leaves few of them alone.";
    destination_share: Percent = 50,
        "The part of the local ports that one destination may take while `bind()` counts as the reason.",
        "connect() takes every second port first: destinations with less than that leave half of them free \
         (`__inet_hash_connect`).";
    idle_time: Time = 30 * S,
        "The time without a packet after which a connection counts as idle.",
        "The shortest time-outs of load balancers and firewalls are of this size.";
    backoffs: Count = 3,
        "The expiries of a retransmit timer after which the peer counts as silent.",
        "Loss of a packet or two is normal; three in a row without any answer are not.";
    short_life: Time = 100 * MS,
        "The lifetime below which a connection counts as short.",
        "A request of a service nearby takes less; a connection that is used again lives longer.";

    // Of what events show.
    connects_failed: Count = 3,
        "The number of failed connects to a service port from which on it is more than a note.",
        "One or two are a client that tries an address that is not there, and then another one.";
    connects_failed_share: Percent = 10,
        "The part of all connects to a service port that must have failed for a warning; half of them is critical.",
        "Clients that try several addresses lose some of their connects, and nobody notices.";
    given_up_least: Time = S,
        "The time after which a connect that the application gives up counts as failed.",
        "A client that tries two addresses at once gives up the slower one sooner (RFC 8305: 250 ms); time-outs of \
         connects are longer.";
    stale_pool_count: Count = 3,
        "The number of connections reset because they were used after the peer had closed, from which on it is a pool's fault.",
        "One is a request that met the close; a pool repeats it.";
    keepalive_race_count: Count = 3,
        "The number of connections that got a request after their idle time-out from which on it is a warning.",
        "One is bad luck; where the peer's time-out is longer, it comes again and again.";
    idle_timeout_least: Time = S,
        "The lifetime below which no idle time-out can have closed a connection.",
        "Servers count idle time in seconds.";
    slow_handshakes: Count = 3,
        "The number of slow handshakes from which on it is loss.",
        "A single lost packet is normal.";
    slow_handshakes_share: Percent = 1,
        "The part of clients' handshakes in which the SYN was sent again, from which on it is loss.",
        "A good network loses far less; at 1 % one user in a hundred waits a second longer.";
    idle_resets: Count = 3,
        "The number of different moments at which idle connections were reset, from which on it is a time-out on the way.",
        "A peer that ends resets all of them at one moment.";
    health_checks: Count = 3,
        "The number of short connections from one address that it reset from which on they count as checks.",
        "Two have one distance; with three there are two that can be compared.";
    short_rate: PerSecond = 50,
        "The number of connections that begin a second at a service port from which on a use again is worth it.",
        "At 50 a second 3,000 are in TIME_WAIT all the time (60 s each).";
    short_time: Time = 5 * S,
        "The time for which we must have watched before anything is said about short connections.",
        "A client that opens its pool opens many within a second, and none after that.";
    short_share: Percent = 80,
        "The part of the connections that must be short for it.",
        "Below that, most connections are used for some time.";
    ports_used_share: Percent = 80,
        "The part of the local ports to one destination that short connections may use before it is a warning.",
        "A burst takes the rest within seconds.";
    failing_peer_count: Count = 5,
        "The number of failures at one address from which on it counts as the one that fails.",
        "With fewer, chance can pick one address.";
    failing_peer_share: Percent = 80,
        "The part of all failures of a service that one address must have.",
        "If others fail as well, it is not that address.";
    time_wait_count: Count = 1_000,
        "The number of sockets in `TIME_WAIT` at a service port from which on it is worth saying who closes first.",
        "Fewer cost nothing: a socket in TIME_WAIT is a few hundred bytes.";
    closes_first_share: Percent = 50,
        "The part of a service's connections that this side must close first for it.",
        "Below that, the peers close first as a rule; those in TIME_WAIT are exceptions: time-outs, limits of requests, ends of processes.";
    deploy_time: Time = 10 * S,
        "The time around the end and the beginning of a listener in which resets count as its work.",
        "Process managers stop a process within this time, or kill it.";
}

impl Default for Thresholds {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Thresholds {
    /// Changes one of them; the value is in its unit.
    ///
    /// *Errors:* none has this name.
    pub fn set(&mut self, name: &str, value: u64) -> Result<(), UnknownThreshold> {
        if let Some(threshold) = self.get_mut(name) {
            *threshold = value;
            return Ok(());
        }
        Err(UnknownThreshold {
            name: name.to_owned(),
            similar: nearest(name, Self::TABLE.iter().map(|row| row.name)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_threshold_can_be_changed_and_has_a_reason() {
        for row in Thresholds::TABLE {
            let mut changed = Thresholds::default();
            changed.set(row.name, row.default + 1).unwrap();
            assert_ne!(changed, Thresholds::default(), "{}", row.name);
            for text in [row.decides, row.reason] {
                assert!(text.ends_with('.') && !text.contains("  "), "{text}");
            }
        }
    }

    #[test]
    fn a_name_that_is_meant_is_suggested() {
        let error = Thresholds::default().set("close_wait_ages", 1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown threshold `close_wait_ages`; did you mean `close_wait_age`?"
        );
    }
}
