//! A socket in each of TCP's states, for the duration of a test.
//!
//! Knows nothing of `tcpstate`. A socket stays in a state that it would leave at once because a packet is
//! dropped on arrival ([`drop_packets`]).

use std::{
    net::{IpAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
};

use anyhow::Result;
use tcpstate_common::State;

use crate::{
    net::{Connection, await_fin, await_state, drop_incoming, shutdown_write},
    traffic::start_connecting,
};

pub const OPEN: u16 = 1000;
const NO_SYN: u16 = 1001;
pub const NO_ACK: u16 = 1002;
const NO_CLIENT_FIN: u16 = 1003;
const NO_SERVER_FIN: u16 = 1004;

pub fn drop_packets() -> Result<()> {
    drop_incoming(&[
        &format!("tcp dport {NO_SYN} tcp flags & syn == syn"),
        &format!("tcp dport {NO_ACK} tcp flags & (syn|ack) == ack"),
        &format!("tcp dport {NO_CLIENT_FIN} tcp flags & fin == fin"),
        &format!("tcp sport {NO_SERVER_FIN} tcp flags & fin == fin"),
    ])
}

/// The number of sockets in each state that [`one_of_each`] makes.
pub const ONE_OF_EACH: [(State, usize); 10] = [
    (State::ESTABLISHED, 4),
    (State::SYN_SENT, 1),
    (State::SYN_RECV, 1),
    (State::FIN_WAIT1, 1),
    (State::FIN_WAIT2, 4),
    (State::TIME_WAIT, 1),
    (State::CLOSE_WAIT, 2),
    (State::LAST_ACK, 1),
    (State::LISTEN, 4),
    (State::CLOSING, 1),
];

/// Makes a socket in each state, on this address. They stay in their states until the returned sockets are
/// closed.
pub fn one_of_each(addr: IpAddr) -> Result<Vec<OwnedFd>> {
    let mut kept: Vec<OwnedFd> = Vec::new();
    let connect = |port: u16| Connection::new((addr, port));

    // LISTEN, ESTABLISHED twice, CLOSE_WAIT and FIN_WAIT2.
    let one = connect(OPEN)?;
    let other = TcpStream::connect((addr, OPEN))?;
    shutdown_write(&other)?;
    let (accepted, _) = one.listener.accept()?;
    await_fin(&accepted)?;
    await_state(&other, State::FIN_WAIT2)?;
    // TIME_WAIT, and a minisocket in FIN_WAIT2 (an orphan).
    let client = TcpStream::connect((addr, OPEN))?;
    let (server, _) = one.listener.accept()?;
    drop(client);
    await_fin(&server)?;
    drop(server);
    let client = TcpStream::connect((addr, OPEN))?;
    let (server, _) = one.listener.accept()?;
    drop(client);
    await_fin(&server)?;
    kept.extend([accepted.into(), other.into(), server.into()]);
    kept.extend([one.listener.into(), one.client.into(), one.server.into()]);

    let syn_sent = start_connecting(None, (addr, NO_SYN).into())?;
    let listener = TcpListener::bind((addr, NO_ACK))?;
    let half_open = TcpStream::connect((addr, NO_ACK))?;
    kept.extend([syn_sent, listener.into(), half_open.into()]);

    // FIN_WAIT1, whose FIN is lost; CLOSING, the same with a FIN from the peer.
    let fin_wait1 = connect(NO_CLIENT_FIN)?;
    shutdown_write(&fin_wait1.client)?;
    let closing = TcpStream::connect((addr, NO_CLIENT_FIN))?;
    let (server, _) = fin_wait1.listener.accept()?;
    shutdown_write(&closing)?;
    shutdown_write(&server)?;
    await_state(&closing, State::CLOSING)?;
    await_state(&server, State::FIN_WAIT2)?;
    kept.extend([fin_wait1.listener.into(), fin_wait1.client.into()]);
    kept.extend([fin_wait1.server.into(), closing.into(), server.into()]);

    // LAST_ACK: the FIN of the side that closes second is lost.
    let last_ack = connect(NO_SERVER_FIN)?;
    shutdown_write(&last_ack.client)?;
    await_fin(&last_ack.server)?;
    shutdown_write(&last_ack.server)?;
    await_state(&last_ack.server, State::LAST_ACK)?;
    await_state(&last_ack.client, State::FIN_WAIT2)?;
    kept.extend([last_ack.listener.into(), last_ack.client.into()]);
    kept.push(last_ack.server.into());
    Ok(kept)
}
