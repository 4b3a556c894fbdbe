//! Which processes hold the listeners. That changes without an event: a daemon's first process leaves its
//! listener to another one, a server makes and replaces workers.
//!
//! No event waits for this. The sampler's thread looks once a second whether there is a reason to read `/proc`
//! again: a socket has begun to listen, or a process that held a listener is gone. Without a reason it reads it
//! seldom, and ever more so while nothing changes. Where reading takes long, the next time is later: it takes at
//! most a fiftieth of a core.

use std::time::{Duration, Instant};

use hashbrown::{HashMap, HashSet};
use rustix::process::{Pid, test_kill_process};
use tcpstate_common::State;
use tcpstate_core::{
    census::{Held, MAX_HELD_BY},
    event::Process,
    inventory::Inventory,
};

/// Shortest time between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Longest time between two readings of `/proc`.
const LONGEST: Duration = Duration::from_secs(64);

/// The holders of all listeners, as they were found last.
pub(super) struct Holders {
    /// By network namespace and cookie.
    known: HashMap<(u32, u64), Vec<Process>>,
    /// Time of the next look.
    look_at: Instant,
    /// Time of the next reading if there is no reason for an earlier one.
    read_at: Instant,
    /// Time between two such readings.
    pause: Duration,
}

impl Holders {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            known: HashMap::new(),
            look_at: now + LOOK,
            read_at: now + LOOK,
            pause: LOOK,
        }
    }

    /// The time of the next look.
    pub(super) const fn look_at(&self) -> Instant {
        self.look_at
    }

    /// Whether it is time to read `/proc`. `listened`: whether a socket has begun to listen since the last call.
    pub(super) fn is_due(&mut self, listened: impl FnOnce() -> bool) -> bool {
        let now = Instant::now();
        if now < self.look_at {
            return false;
        }
        self.look_at = now + LOOK;
        listened() || now >= self.read_at || self.is_one_gone()
    }

    fn is_one_gone(&self) -> bool {
        let processes: HashSet<u32> = self.known.values().flatten().map(|one| one.pid).collect();
        processes.into_iter().any(|pid| {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            pid.is_some_and(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
        })
    }

    /// Takes the holders of the listeners in an inventory that has all of them, and returns those that are new,
    /// by network namespace.
    pub(super) fn update(&mut self, inventory: &Inventory) -> Vec<(u32, Held)> {
        let mut new = Vec::new();
        let mut known = HashMap::new();
        let listeners = inventory.sockets.iter();
        for socket in listeners.filter(|socket| socket.state == State::LISTEN) {
            let by = inventory.holders(socket);
            let by = by.get(..MAX_HELD_BY).unwrap_or(by);
            if by.is_empty() {
                // It is being passed on, or its holder is hidden.
                continue;
            }
            let key = (socket.netns, socket.cookie);
            let before = self.known.remove(&key).unwrap_or_default();
            if before != by {
                let held = Held {
                    cookie: socket.cookie,
                    laddr: socket.laddr,
                    lport: socket.lport,
                    by: by.to_vec(),
                };
                new.push((socket.netns, held));
            }
            known.insert(key, by.to_vec());
        }
        self.known = known;
        self.pause = if new.is_empty() {
            (2 * self.pause).min(LONGEST)
        } else {
            LOOK
        };
        self.read_at = Instant::now() + self.pause;
        new
    }

    /// The next look is not before this time has passed.
    pub(super) fn rest(&mut self, time: Duration) {
        self.look_at = self.look_at.max(Instant::now() + time);
    }

    /// Forgets everything, so that all of it is new.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }
}

#[cfg(test)]
mod tests {
    use tcpstate_core::inventory::Socket;

    use super::*;

    fn inventory(by: &[u32]) -> Inventory {
        let process = |&pid: &u32| Process {
            pid,
            comm: [b'x'; 16],
        };
        Inventory {
            sockets: vec![Socket {
                netns: 1,
                cookie: 2,
                family: 2,
                state: State::LISTEN,
                laddr: [0, 0, 0, 0].into(),
                lport: 80,
                raddr: [0, 0, 0, 0].into(),
                rport: 0,
                interface: None,
                timer: None,
                rqueue: 0,
                wqueue: 0,
                uid: None,
                inode: Some(7),
                cgroup: None,
                shutdown: None,
                v6only: None,
                drops: None,
                info: None,
            }],
            holders: Some([(7, by.iter().map(process).collect())].into()),
            ..Inventory::default()
        }
    }

    fn new(holders: &mut Holders, by: &[u32]) -> Vec<Vec<u32>> {
        let new = holders.update(&inventory(by)).into_iter();
        new.map(|(_, held)| held.by.iter().map(|one| one.pid).collect())
            .collect()
    }

    #[test]
    fn only_what_changes_is_new() {
        let mut holders = Holders::new();
        assert_eq!(new(&mut holders, &[1, 2]), [[1, 2]]);
        assert!(new(&mut holders, &[1, 2]).is_empty());
        assert_eq!(new(&mut holders, &[1, 3]), [[1, 3]]);
        // Between two processes nobody may hold it.
        assert!(new(&mut holders, &[]).is_empty());
        assert_eq!(new(&mut holders, &[1, 3]), [[1, 3]]);
        holders.forget();
        assert_eq!(new(&mut holders, &[1, 3]), [[1, 3]]);
    }

    #[test]
    fn it_is_read_ever_more_seldom_while_nothing_changes() {
        let mut holders = Holders::new();
        new(&mut holders, &[1]);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            new(&mut holders, &[1]);
            pauses.push(holders.pause.as_secs());
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 64, 64]);
        new(&mut holders, &[2]);
        assert_eq!(holders.pause, LOOK);
    }

    #[test]
    fn the_end_of_a_holder_and_a_new_listener_are_reasons_to_read() {
        let mut holders = Holders::new();
        let mut is_due = |known: &[u32], listened: bool| {
            new(&mut holders, known);
            holders.look_at = Instant::now();
            holders.read_at = Instant::now() + LONGEST;
            holders.is_due(|| listened)
        };
        let own = std::process::id();
        assert!(!is_due(&[own], false));
        assert!(is_due(&[own], true));
        // No process has the largest number.
        assert!(is_due(&[own, i32::MAX.unsigned_abs()], false));
        // A look is not repeated at once.
        assert!(!holders.is_due(|| true));
    }
}
