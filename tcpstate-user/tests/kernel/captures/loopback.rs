//! Traffic on the loopback.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use rustix::net::{AddressFamily, bind, connect, sockopt};
use tcpstate_common::State;

use super::Situation;
use crate::net::{
    Connection, await_fin, await_state, joined, reset, shutdown_write, socket, unused_port,
};

/// Threads that connect at a time, and connections of each.
const THREADS: u8 = 20;
const EACH: u8 = 25;

type Run = fn(u16) -> Result<()>;

/// All ways to open and close a connection that the loopback can show.
pub const ALL: &[Situation<Run>] = &[
    Situation::new("the client closes first", |port| orderly(port, true)),
    Situation::new("the server closes first", |port| orderly(port, false)),
    Situation::new("half closed, and data still comes", half_closed),
    Situation::new("refused", |port| {
        ensure!(TcpStream::connect(local(port)).is_err());
        Ok(())
    }),
    Situation::new(
        "reset, by either end, before and after a FIN of the other",
        resets,
    ),
    Situation::new("closed with data that nobody read", unread_data),
    Situation::new("data after the close", late_data),
    Situation::new("a connection that nobody accepts", not_accepted),
    Situation::new("the same ports three times", same_ports),
    Situation::new("500 connections from 20 threads", crowd),
];

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn orderly(port: u16, client_first: bool) -> Result<()> {
    let Connection { client, server, .. } = Connection::new(local(port))?;
    let (first, mut second) = if client_first {
        (client, server)
    } else {
        (server, client)
    };
    drop(first);
    ensure!(second.read(&mut [0])? == 0);
    Ok(())
}

fn half_closed(port: u16) -> Result<()> {
    let Connection {
        mut client,
        mut server,
        ..
    } = Connection::new(local(port))?;
    shutdown_write(&client)?;
    await_fin(&server)?;
    server.write_all(&[7; 5000])?;
    client.read_exact(&mut [0; 5000])?;
    drop(server);
    await_fin(&client)
}

fn resets(port: u16) -> Result<()> {
    for is_half_closed in [false, true] {
        for by_client in [true, false] {
            let Connection { client, server, .. } = Connection::new(local(port))?;
            let (first, second) = if by_client {
                (client, server)
            } else {
                (server, client)
            };
            if is_half_closed {
                shutdown_write(&second)?;
                await_fin(&first)?;
                await_state(&second, State::FIN_WAIT2)?;
            }
            reset(first)?;
            await_state(&second, State::CLOSE)?;
        }
    }
    Ok(())
}

fn unread_data(port: u16) -> Result<()> {
    let Connection {
        mut client, server, ..
    } = Connection::new(local(port))?;
    client.write_all(b"unread")?;
    server.peek(&mut [0])?;
    drop(server);
    await_state(&client, State::CLOSE)
}

fn late_data(port: u16) -> Result<()> {
    let Connection {
        client, mut server, ..
    } = Connection::new(local(port))?;
    drop(client);
    await_fin(&server)?;
    server.write_all(b"late")?;
    await_state(&server, State::CLOSE)
}

fn not_accepted(port: u16) -> Result<()> {
    let listener = TcpListener::bind(local(port))?;
    let client = TcpStream::connect(local(port))?;
    drop(listener);
    await_state(&client, State::CLOSE)
}

/// The server closes first, so that the client's port is free at once.
fn same_ports(port: u16) -> Result<()> {
    let from = unused_port();
    let listener = TcpListener::bind(local(port))?;
    for _ in 0..3 {
        let client: OwnedFd = socket(AddressFamily::INET, None)?;
        sockopt::set_socket_reuseaddr(&client, true)?;
        bind(&client, &local(from))?;
        connect(&client, &local(port))?;
        let (server, _) = listener.accept()?;
        drop(server);
        await_fin(&client)?;
    }
    Ok(())
}

/// Many connections at a time, which close in any order.
fn crowd(port: u16) -> Result<()> {
    let address = |thread: u8| SocketAddr::from((Ipv4Addr::new(127, 0, 0, thread + 1), port));
    let one = |thread: u8| -> Result<()> {
        let listener = TcpListener::bind(address(thread))?;
        for at in 0..EACH {
            let mut client = TcpStream::connect(address(thread))?;
            let (mut server, _) = listener.accept()?;
            client.write_all(&[at])?;
            server.read_exact(&mut [0])?;
            if at % 2 == 0 {
                drop((client, server));
            } else {
                drop((server, client));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    };
    thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || one(thread)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| joined(thread.join()))
    })
}
