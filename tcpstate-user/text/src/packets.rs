//! `tcpstate trace --packets`: the packets of each connection, between the states of its two ends.
//!
//! One connection after the other, each when all of its packets are known; or interleaved, as the packets come. Text folds a row of
//! packets that say nothing of states into one line, where connections come one after the other; JSON never does.

mod line;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{self, Write},
};

use tcpstate_core::{
    catalogue::{PACKET, PacketRow},
    event::Event,
    model::{Books, Tracker},
    options::{Format, PacketOrder},
    origin::Origin,
    packet::ConnectionPacket,
    view::{End, Flow, View},
};

use self::line::{Fold, Lines, Row};
use crate::{
    format::{json, units::Counted},
    printer::Printer,
    settings::Settings,
};

/// Rows that are held at most until their connections are printed: some 40 MB.
const MAX_ROWS: usize = 1 << 18;

/// Packets in a row that say nothing of states and are still shown one by one.
const SHOWN_IN_A_ROW: usize = 2;

/// The options of the view.
#[derive(Clone, Debug)]
pub struct Options {
    /// The settings that all views share. CSV is written as JSON.
    pub settings: Settings,
    /// The order of the packets; JSON has them as they were captured.
    pub order: PacketOrder,
}

/// The view.
pub struct Packets {
    order: PacketOrder,
    printer: Printer<Lines, json::Records<PacketRow>, ()>,
    tracker: Tracker,
    origin: Option<Origin>,
    /// The connections that are not printed yet.
    held: BTreeMap<u64, Held>,
    rows: usize,
    /// The connections of which an event has come, and the packet that showed the first one: those that a filter selects which
    /// does not go by addresses alone.
    selected: HashMap<u64, u64>,
    max_selected: usize,
    /// The connections of which something has been shown.
    begun: HashSet<u64>,
    shown: u64,
    connections: u64,
    /// Whether there was no room for a connection in `selected`.
    left_out: bool,
}

/// A connection that is not printed yet.
#[derive(Default)]
struct Held {
    rows: Vec<Row>,
    /// Packets at the end of `rows` that say nothing of states.
    plain: usize,
    packets: u64,
    /// Whether its packets are shown whatever events come.
    is_selected: bool,
}

impl Held {
    /// Adds a packet. Returns how many rows there are more.
    fn add(&mut self, packet: &ConnectionPacket) -> isize {
        let before = self.rows.len();
        self.packets += 1;
        if !line::is_plain(packet) {
            self.plain = 0;
            self.rows.push(Row::Packet(*packet));
        } else if self.plain > SHOWN_IN_A_ROW
            && let Some(Row::Fold(fold)) = self.rows.last_mut()
        {
            fold.add(packet);
        } else {
            self.plain += 1;
            self.rows.push(Row::Packet(*packet));
            if self.plain > SHOWN_IN_A_ROW {
                let first = self.rows.len() - self.plain;
                let mut fold = Fold::default();
                for row in self.rows.drain(first..) {
                    if let Row::Packet(packet) = row {
                        fold.add(&packet);
                    }
                }
                self.rows.push(Row::Fold(fold));
            }
        }
        self.rows.len().cast_signed() - before.cast_signed()
    }
}

impl Packets {
    /// A view with these options.
    pub fn new(options: &Options) -> Self {
        let settings = &options.settings;
        let printer = match settings.format {
            Format::Text => Printer::Text(Lines::new(settings, options.order)),
            Format::Json | Format::Csv => Printer::Json(json::Records::lines(&PACKET)),
        };
        Self {
            order: options.order,
            printer,
            tracker: Tracker::new(settings.limits)
                .without_rates()
                .without_histograms(),
            origin: None,
            held: BTreeMap::new(),
            rows: 0,
            selected: HashMap::new(),
            max_selected: settings.limits.max_connections,
            begun: HashSet::new(),
            shown: 0,
            connections: 0,
            left_out: false,
        }
    }

    /// Whether packets wait until all of their connection are known.
    fn holds(&self) -> bool {
        self.printer.is_text() && self.order == PacketOrder::ByConnection
    }

    /// Shows a packet now.
    fn show(&mut self, packet: &ConnectionPacket, out: &mut dyn Write) -> io::Result<()> {
        let wall_ns = self.wall_ns(packet);
        let begins = self.begin(packet.connection);
        self.shown += 1;
        match &mut self.printer {
            Printer::Text(lines) => lines.interleaved(packet, begins, out),
            Printer::Json(records) => {
                let packet = *packet;
                records.write(&PacketRow { packet, wall_ns }, out)
            }
            Printer::Csv(()) => Ok(()),
        }
    }

    fn wall_ns(&self, packet: &ConnectionPacket) -> i64 {
        let origin = self.origin.as_ref();
        origin.map_or(0, |origin| origin.wall_ns(packet.ts_ns))
    }

    /// Counts a connection if it is a new one. Returns whether it is.
    fn begin(&mut self, connection: u64) -> bool {
        if self.begun.len() >= self.max_selected && !self.begun.contains(&connection) {
            self.left_out = true;
            return false;
        }
        let is_new = self.begun.insert(connection);
        self.connections += u64::from(is_new);
        is_new
    }

    /// Prints the connections that are held. `is_end`: no events come that may still select one.
    fn print(&mut self, is_end: bool, out: &mut dyn Write) -> io::Result<()> {
        self.rows = 0;
        for (connection, held) in std::mem::take(&mut self.held) {
            if !held.is_selected && !self.selected.contains_key(&connection) {
                self.left_out |= !is_end;
                continue;
            }
            let rows = held.rows;
            // The first packets of some were printed when there was no more room.
            let goes_on = !self.begin(connection);
            if let Printer::Text(lines) = &mut self.printer {
                let counts = (connection, held.packets);
                let wall_ns = match (&self.origin, rows.first()) {
                    (Some(origin), Some(row)) => origin.wall_ns(row.ts_ns()),
                    _ => 0,
                };
                lines.connection(counts, &rows, goes_on, wall_ns, out)?;
            }
            self.shown += held.packets;
        }
        Ok(())
    }
}

impl View for Packets {
    fn start(&mut self, origin: &Origin, out: &mut dyn Write) -> io::Result<()> {
        self.origin = Some(origin.clone());
        match &mut self.printer {
            Printer::Text(lines) => lines.start(origin.started_ns, out),
            Printer::Json(_) | Printer::Csv(()) => Ok(()),
        }
    }

    fn event(&mut self, event: &Event, _out: &mut dyn Write) -> io::Result<Flow> {
        self.tracker.apply(event);
        if let (Some(cookie), Some(packet)) = (event.cookie(), event.packet()) {
            let connection = cookie.div_ceil(2);
            if self.selected.len() < self.max_selected {
                self.selected.entry(connection).or_insert(packet.number);
            } else if !self.selected.contains_key(&connection) {
                self.left_out = true;
            }
        }
        Ok(Flow::Continue)
    }

    fn follow(&mut self, event: &Event) {
        self.tracker.apply(event);
    }

    fn packets(
        &mut self,
        packets: &[ConnectionPacket],
        are_selected: bool,
        out: &mut dyn Write,
    ) -> io::Result<Flow> {
        if are_selected {
            self.selected.clear();
            self.left_out = false;
        }
        for packet in packets {
            if !self.holds() {
                let from = self.selected.get(&packet.connection);
                if are_selected || from.is_some_and(|&from| from <= packet.number) {
                    self.show(packet, out)?;
                }
                continue;
            }
            let held = self.held.entry(packet.connection).or_default();
            held.is_selected |= are_selected;
            self.rows = self.rows.saturating_add_signed(held.add(packet));
            if self.rows > MAX_ROWS {
                self.print(false, out)?;
            }
        }
        Ok(Flow::Continue)
    }

    fn wants_packets(&self) -> bool {
        true
    }

    fn is_silent_until_finish(&self) -> bool {
        self.holds()
    }

    fn left_out(&self) -> bool {
        self.left_out
    }

    fn finish(&mut self, end: &End, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
        self.print(true, out)?;
        let packets = Counted(self.shown, "packet");
        let connections = Counted(self.connections, "connection");
        let words = format!("{packets} of {connections}");
        let totals = (self.shown, words);
        let books = self.tracker.books();
        self.printer.finish_counted(end, totals, books, out, err)
    }

    fn connections(&self) -> Option<Books> {
        Some(self.tracker.books())
    }
}

#[cfg(test)]
mod tests;
