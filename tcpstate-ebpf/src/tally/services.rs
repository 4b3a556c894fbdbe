//! Which service a connection belongs to: a role and a port, and the number of the row in which it is counted.

use core::hint::black_box;

use tcpstate_common::{
    State,
    filter::Key,
    tally::{row, service, side},
};

use crate::maps::{FREE_ROWS, ROWS_BY_PORT, SERVICES, config};

/// Which side a socket is, or neither.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Unknown,
    Client,
    Server,
}

/// What a socket is that begins with this state.
#[inline(always)]
pub(super) fn role_that_begins(newstate: State) -> Role {
    match newstate {
        State::SYN_SENT => Role::Client,
        State::LISTEN | State::SYN_RECV => Role::Server,
        _ => Role::Unknown,
    }
}

/// What a socket is that was there before: a client, if it connects; a server, if its port is one where
/// somebody listens; a client, if the kernel may have chosen its own port and the peer's is none of that
/// kind.
#[inline(always)]
pub(super) fn role_of_unknown(oldstate: State, key: &Key) -> Role {
    if oldstate.0 == State::SYN_SENT.0 {
        return Role::Client;
    }
    if oldstate.0 == State::LISTEN.0 {
        return Role::Server;
    }
    if let Some(rows) = ROWS_BY_PORT.get_ptr_mut(side::SERVER) {
        // SAFETY: the map lookup gave a valid pointer.
        if unsafe { (*rows)[port_index(key.lport)] } != 0 {
            return Role::Server;
        }
    }
    let (first, last) = (config!(ephemeral_first), config!(ephemeral_last));
    let is_ephemeral = |port| first <= port && port <= last;
    if is_ephemeral(key.lport) && !is_ephemeral(key.rport) {
        return Role::Client;
    }
    Role::Unknown
}

/// A port as an index. Older verifiers lose sight of its bound when it is put into the host's byte order.
#[inline(always)]
fn port_index(port: u16) -> usize {
    black_box(u64::from(port)) as usize & 0xffff
}

/// The number of the row in which a service is counted.
#[inline(always)]
pub(super) fn row_of(role: Role, key: &Key) -> u32 {
    let (of, port, unknown, other) = match role {
        Role::Unknown => return row::UNKNOWN,
        Role::Client => (side::CLIENT, key.rport, row::CLIENT, row::OTHER_CLIENT),
        Role::Server => (side::SERVER, key.lport, row::SERVER, row::OTHER_SERVER),
    };
    if port == 0 {
        return unknown;
    }
    let Some(rows) = ROWS_BY_PORT.get_ptr_mut(of) else {
        return other;
    };
    // SAFETY: the map lookup gave a valid pointer.
    let entry = unsafe { &raw mut (*rows)[port_index(port)] };
    // SAFETY: as above.
    let known = unsafe { entry.read() };
    if known != 0 {
        return u32::from(known);
    }
    let new = match FREE_ROWS.pop() {
        Ok(Some(new)) => {
            // Another CPU may give the port a row at the same moment. Both are its, and the reader adds
            // them up.
            let Some(whose) = SERVICES.get_ptr_mut(new) else {
                return other;
            };
            // SAFETY: the map lookup gave a valid pointer.
            unsafe { whose.write(service(of, port)) };
            new
        }
        Ok(None) => other,
        // Somebody else is taking one: next time.
        Err(_) => return other,
    };
    // SAFETY: as above.
    unsafe { entry.write(new as u16) };
    new
}
