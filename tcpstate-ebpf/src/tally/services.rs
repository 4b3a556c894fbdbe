//! The service of a connection: a role and a port, and the number of the row in which it is counted.

use core::hint::black_box;

use tcpstate_common::{
    State,
    filter::Key,
    tally::{row, service, side},
};

use crate::maps::{FREE_ROWS, ROWS_BY_PORT, SERVICES, config};

/// The role of a socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Unknown,
    Client,
    Server,
}

/// The role of a socket whose first transition leads to this state.
#[inline(always)]
pub(super) fn opening_role(newstate: State) -> Role {
    match newstate {
        State::SYN_SENT => Role::Client,
        State::LISTEN | State::SYN_RECV => Role::Server,
        _ => Role::Unknown,
    }
}

/// The role of a socket that is not remembered: a client if it was connecting; a server if its local port is that
/// of a listener; a client if its local port is ephemeral and its remote port is not.
#[inline(always)]
pub(super) fn guessed_role(oldstate: State, key: &Key) -> Role {
    if oldstate.0 == State::SYN_SENT.0 {
        return Role::Client;
    }
    if oldstate.0 == State::LISTEN.0 {
        return Role::Server;
    }
    if let Some(rows) = ROWS_BY_PORT.get_ptr_mut(side::SERVER) {
        // SAFETY: the map lookup returned a valid pointer.
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

/// A port as an index. Older verifiers lose its bound in the conversion to host byte order.
#[inline(always)]
fn port_index(port: u16) -> usize {
    black_box(u64::from(port)) as usize & 0xffff
}

/// The number of the row in which a service is counted. Assigns a free row to a new service.
#[inline(always)]
pub(super) fn row_of(role: Role, key: &Key) -> u32 {
    let (side, port, unknown, other) = match role {
        Role::Unknown => return row::UNKNOWN,
        Role::Client => (side::CLIENT, key.rport, row::CLIENT, row::OTHER_CLIENT),
        Role::Server => (side::SERVER, key.lport, row::SERVER, row::OTHER_SERVER),
    };
    if port == 0 {
        return unknown;
    }
    let Some(rows) = ROWS_BY_PORT.get_ptr_mut(side) else {
        return other;
    };
    // SAFETY: the map lookup returned a valid pointer.
    let entry = unsafe { &raw mut (*rows)[port_index(port)] };
    // SAFETY: as above.
    let known = unsafe { entry.read() };
    if known != 0 {
        return u32::from(known);
    }
    let new = match FREE_ROWS.pop() {
        Ok(Some(new)) => {
            // Another CPU may assign the port a row at the same time. Both rows then belong to it, and the
            // reader adds them up.
            let Some(row_service) = SERVICES.get_ptr_mut(new) else {
                return other;
            };
            // SAFETY: the map lookup returned a valid pointer.
            unsafe { row_service.write(service(side, port)) };
            new
        }
        Ok(None) => other,
        // Another CPU is taking one: the service's next transition tries again.
        Err(_) => return other,
    };
    // SAFETY: as above.
    unsafe { entry.write(new as u16) };
    new
}
