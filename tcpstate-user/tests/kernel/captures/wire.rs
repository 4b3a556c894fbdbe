//! Traffic between two namespaces, over a wire that holds packets back, loses them, or is late.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tcpstate_common::State;

use super::Situation;
use crate::{
    net::{Netns, await_fin, await_state, joined, shutdown_write},
    traffic::{connect_over, crossing, start_connecting},
    wire::{Impairment, Wire},
};

type Run = fn(&Place, u16) -> Result<()>;

/// The ways to open and close a connection that only a network shows.
pub const ALL: &[Situation<Run>] = &[
    Situation::new("opens that cross", crossing_opens),
    Situation::new("closes that cross", crossing_closes),
    Situation::new(
        "40 connections, packets late and out of order",
        |place, port| bad_network(place, port, 0, IN_ORDER),
    ),
    Situation::new(
        "40 connections, packets late and out of order, 10 % lost",
        |place, port| bad_network(place, port, 10, IN_ORDER),
    ),
    Situation {
        name: "the clients of 40 closes that may cross, packets late and out of order, 10 % lost",
        run: |place, port| bad_network(place, port, 10, [Ending::Both; EACH]),
        leaves_order: true,
    },
];

/// Two namespaces, and the wire between them.
pub struct Place<'a> {
    pub near: &'a Netns,
    pub far: &'a Netns,
    pub wire: &'a Wire,
}

fn crossing_opens(place: &Place, port: u16) -> Result<()> {
    let Place { near, far, wire } = place;
    let (first, second) = ((Wire::FIRST, port).into(), (Wire::SECOND, port).into());
    wire.hold(|segment| segment.syn);
    let client = near.run(|| start_connecting(Some(first), second))?;
    let server = far.run(|| start_connecting(Some(second), first))?;
    wire.await_held(|held| crossing(held, |segment| segment.syn))?;
    wire.release()?;
    await_state(&client, State::ESTABLISHED)?;
    await_state(&server, State::ESTABLISHED)?;
    drop(client);
    rustix::io::ioctl_fionbio(&server, false)?;
    await_fin(&server)
}

fn crossing_closes(place: &Place, port: u16) -> Result<()> {
    let Place { near, far, wire } = place;
    let (_listener, client, server) = connect_over(near, far, port)?;
    wire.hold(|segment| segment.fin);
    shutdown_write(&client)?;
    shutdown_write(&server)?;
    wire.await_held(|held| crossing(held, |segment| segment.fin))?;
    wire.release()?;
    // A close before the last acknowledgement would be shown as one that changes nothing.
    await_state(&client, State::CLOSE)?;
    await_state(&server, State::CLOSE)
}

/// Clients at a time, and connections of each.
const CLIENTS: usize = 8;
const EACH: usize = 5;

/// The longest way of a packet.
const LATEST: Duration = Duration::from_millis(40);

/// The end of a connection.
#[derive(Clone, Copy)]
enum Ending {
    ClientFirst,
    ServerFirst,
    HalfClosed,
    /// Neither waits for the other, so the FINs may cross.
    Both,
}

/// Each waits for the other.
const IN_ORDER: [Ending; EACH] = [
    Ending::ClientFirst,
    Ending::ServerFirst,
    Ending::HalfClosed,
    Ending::ClientFirst,
    Ending::ServerFirst,
];

fn bad_network(place: &Place, port: u16, lost_percent: u64, endings: [Ending; EACH]) -> Result<()> {
    let Place { near, far, wire } = place;
    let listener = far.run(|| Ok(TcpListener::bind(Wire::second(port))?))?;
    wire.impair(Some(Impairment {
        lost_percent,
        latest: LATEST,
    }));
    thread::scope(|scope| {
        let servers = scope.spawn(|| serve(&listener));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| near.run(|| connect(Wire::second(port), endings))))
            .collect();
        for client in clients {
            joined(client.join())?;
        }
        joined(servers.join())
    })
}

fn connect(to: SocketAddr, endings: [Ending; EACH]) -> Result<()> {
    for ending in endings {
        let mut client = TcpStream::connect(to)?;
        client.write_all(&[ending as u8])?;
        client.read_exact(&mut [0])?;
        match ending {
            Ending::ClientFirst | Ending::Both => drop(client),
            Ending::ServerFirst => await_fin(&client)?,
            Ending::HalfClosed => {
                shutdown_write(&client)?;
                client.read_exact(&mut [0; 5_000])?;
                await_fin(&client)?;
            }
        }
    }
    Ok(())
}

fn serve(listener: &TcpListener) -> Result<()> {
    thread::scope(|scope| {
        let servers = (0..CLIENTS * EACH).map(|_| {
            let (server, _) = listener.accept()?;
            Ok(scope.spawn(|| one(server)))
        });
        let servers = servers.collect::<Result<Vec<_>>>()?;
        let mut servers = servers.into_iter();
        servers.try_for_each(|server| joined(server.join()))
    })
}

/// The other end: the first byte says how it ends.
fn one(mut server: TcpStream) -> Result<()> {
    let mut which = [0];
    server.read_exact(&mut which)?;
    server.write_all(&which)?;
    let mut endings = IN_ORDER.into_iter().chain([Ending::Both]);
    let ending = endings.find(|&ending| ending as u8 == which[0]);
    match ending.context("no such ending")? {
        Ending::ClientFirst => await_fin(&server),
        Ending::ServerFirst => Ok(()),
        Ending::Both => {
            // The client has the byte now, or soon: its FIN is often under way.
            thread::sleep(LATEST / 2);
            Ok(())
        }
        Ending::HalfClosed => {
            await_fin(&server)?;
            server.write_all(&[7; 5_000])?;
            Ok(())
        }
    }
}
