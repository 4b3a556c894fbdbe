//! The lines of the picture.

use std::io::{self, Write};

use tcpstate_common::State;
use tcpstate_core::{
    cause::Cause,
    options::{PacketOrder, TimeForm},
    packet::{ConnectionPacket, PacketEnd},
};

use crate::{
    format::{
        text::push_endpoint,
        time::{Local, Since},
        units::{Bytes, Count, Counted},
        value::push_control_bits,
    },
    settings::Settings,
};

/// The columns of a line, where there is no terminal.
const WIDTH: usize = 100;

/// The columns of the names of states: the longest is `ESTABLISHED`.
const STATE: usize = 11;

/// The columns of an arrow.
const ARROW: usize = 17;

const FIN_SYN_RST: u8 = 0b111;
const RST: u8 = 0b100;

/// A line of a connection that is printed as a whole.
pub(super) enum Row {
    Packet(ConnectionPacket),
    /// Packets in a row that say nothing of states.
    Fold(Fold),
}

impl Row {
    pub(super) const fn ts_ns(&self) -> u64 {
        match self {
            Self::Packet(packet) => packet.ts_ns,
            Self::Fold(fold) => fold.first_ns,
        }
    }
}

/// Packets in a row that say nothing of states.
#[derive(Default)]
pub(super) struct Fold {
    packets: u64,
    first_ns: u64,
    /// Payload of each end.
    bytes: [u64; 2],
}

impl Fold {
    pub(super) fn add(&mut self, packet: &ConnectionPacket) {
        if self.packets == 0 {
            self.first_ns = packet.ts_ns;
        }
        self.packets += 1;
        let [first, second] = &mut self.bytes;
        let bytes = if packet.is_of_first { first } else { second };
        *bytes += u64::from(packet.len);
    }
}

/// Whether a packet says nothing of states: data and its acknowledgement.
pub(super) fn is_plain(packet: &ConnectionPacket) -> bool {
    packet.flags & FIN_SYN_RST == 0
        && packet.notes.is_empty()
        && !packet.ends.iter().any(|end| end.has_changed)
}

/// Writes lines.
pub(super) struct Lines {
    local: Local,
    width: usize,
    started_ns: u64,
    order: PacketOrder,
    has_written: bool,
}

/// The widths of the columns of numbers.
#[derive(Clone, Copy)]
struct Widths {
    number: usize,
    seconds: usize,
    /// 0: no column of connections.
    connection: usize,
    seq: usize,
    ack: usize,
    len: usize,
}

/// The widths where the packets to come are not known.
const USUAL: Widths = Widths {
    number: 5,
    seconds: 9,
    connection: 4,
    seq: 6,
    ack: 6,
    len: 5,
};

impl Widths {
    /// The columns before those of the notes.
    const fn before_notes(self) -> usize {
        let connection = if self.connection > 0 {
            self.connection + 1
        } else {
            0
        };
        let numbers = self.number + self.seconds + connection + self.seq + self.ack + self.len;
        numbers + 2 * STATE + ARROW + 1 + 2 + 1 + 1 + 1 + 1 + 1 + 2
    }
}

/// The columns that a number takes.
fn digits(number: &impl ToString) -> usize {
    number.to_string().len()
}

fn state(state: Option<State>) -> String {
    state.map_or_else(|| "-".to_owned(), |state| state.to_string())
}

/// The control bits on their way.
fn arrow(packet: &ConnectionPacket) -> String {
    let mut flags = vec![b' '];
    push_control_bits(&mut flags, packet.flags);
    flags.push(b' ');
    let flags = String::from_utf8_lossy(&flags);
    let flags = if flags.trim().is_empty() { "" } else { &flags };
    if packet.is_of_first {
        format!("{flags:-^0$}>", ARROW - 1)
    } else {
        format!("<{flags:-^0$}", ARROW - 1)
    }
}

/// The name of an end.
fn name(packet: &ConnectionPacket, is_first: bool) -> String {
    let [first, second] = &packet.ends;
    match (packet.has_roles, is_first) {
        (true, true) => "client".to_owned(),
        (true, false) => "server".to_owned(),
        (false, true) => format!("port {}", first.port),
        (false, false) => format!("port {}", second.port),
    }
}

/// The reason for which a RST ended the connection.
fn reset(packet: &ConnectionPacket) -> Option<String> {
    let has = |cause| packet.ends.iter().any(|end| end.cause == Some(cause));
    if packet.flags & RST == 0 {
        None
    } else if has(Cause::Refused) {
        Some("refused".to_owned())
    } else if has(Cause::Abandoned) {
        Some("given up".to_owned())
    } else if has(Cause::ResetLocally) || has(Cause::ResetByPeer) {
        Some(format!("reset by {}", name(packet, packet.is_of_first)))
    } else {
        None
    }
}

/// The notes in words.
fn notes(packet: &ConnectionPacket) -> Vec<String> {
    let words = packet.notes.iter().map(|note| note.words().to_owned());
    reset(packet).into_iter().chain(words).collect()
}

impl Lines {
    pub(super) fn new(settings: &Settings, order: PacketOrder) -> Self {
        Self {
            local: Local::new(settings.zone.clone(), TimeForm::Full),
            width: settings.width.unwrap_or(WIDTH).max(WIDTH),
            started_ns: 0,
            order,
            has_written: false,
        }
    }

    pub(super) fn start(&mut self, started_ns: u64, out: &mut dyn Write) -> io::Result<()> {
        self.started_ns = started_ns;
        if self.order == PacketOrder::Interleaved {
            titles(USUAL, ("CLIENT", "SERVER"), out)?;
        }
        Ok(())
    }

    /// Writes a packet as it comes; `begins` says that it is the first one of its connection that is shown.
    pub(super) fn interleaved(
        &mut self,
        packet: &ConnectionPacket,
        begins: bool,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        if begins {
            writeln!(out, "connection {}: {}", packet.connection, ends(packet)?)?;
        }
        self.packet(packet, self.started_ns, USUAL, out)
    }

    /// Writes a connection as a whole: its number and its packets.
    pub(super) fn connection(
        &mut self,
        (connection, packets): (u64, u64),
        rows: &[Row],
        goes_on: bool,
        wall_ns: i64,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        // The roles may have become known with its last packets.
        let last = rows.iter().rev().find_map(|row| match row {
            Row::Packet(packet) => Some(packet),
            Row::Fold(_) => None,
        });
        let begin_ns = rows.first().map_or(0, Row::ts_ns);
        if std::mem::replace(&mut self.has_written, true) {
            writeln!(out)?;
        }
        let ends = last.map(ends).transpose()?.unwrap_or_default();
        writeln!(out, "connection {connection}: {ends}")?;
        let packets = Counted(packets, "packet");
        let on = if goes_on { ", continued" } else { "" };
        writeln!(out, "{packets} from {}{on}", self.local.at(wall_ns))?;
        let widths = widths(rows, begin_ns);
        let (left, right) = last.map_or_else(
            || ("CLIENT".to_owned(), "SERVER".to_owned()),
            |packet| {
                (
                    name(packet, true).to_uppercase(),
                    name(packet, false).to_uppercase(),
                )
            },
        );
        titles(widths, (&left, &right), out)?;
        for row in rows {
            match row {
                Row::Packet(packet) => self.packet(packet, begin_ns, widths, out)?,
                Row::Fold(fold) => {
                    let [first, second] = fold.bytes;
                    writeln!(
                        out,
                        "{:>indent$}{} more packets: -> {}, <- {}",
                        "",
                        Count(fold.packets),
                        Bytes(first),
                        Bytes(second),
                        indent = widths.number + 1 + widths.seconds + 2,
                    )?;
                }
            }
        }
        Ok(())
    }

    fn packet(
        &mut self,
        packet: &ConnectionPacket,
        from_ns: u64,
        widths: Widths,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let [first, second] = &packet.ends;
        let ns = packet.ts_ns;
        let seconds = Since { ns, from_ns }.to_string();
        let ack = packet
            .ack
            .map_or_else(|| "-".to_owned(), |ack| ack.to_string());
        let connection = if widths.connection > 0 {
            format!("{:>1$} ", packet.connection, widths.connection)
        } else {
            String::new()
        };
        let mut line = format!(
            "{:>nw$} {seconds:>sw$} {connection} {:<STATE$} {} {:<STATE$} {:>qw$} {ack:>aw$} {:>lw$}  ",
            packet.number,
            state(first.state),
            arrow(packet),
            state(second.state),
            packet.seq,
            packet.len,
            nw = widths.number,
            sw = widths.seconds,
            qw = widths.seq,
            aw = widths.ack,
            lw = widths.len,
        );
        // Further notes go below the first where there is no room.
        let mut used = line.len();
        for (at, note) in notes(packet).iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            // One more for the comma behind it.
            if used + comma.len() + note.len() + 1 > self.width {
                writeln!(out, "{}{}", line.trim_end(), comma.trim_end())?;
                let room = self.width.saturating_sub(note.len());
                line = " ".repeat(widths.before_notes().min(room));
                line.push_str(note);
            } else {
                line.push_str(comma);
                line.push_str(note);
            }
            used = line.len();
        }
        writeln!(out, "{}", line.trim_end())
    }
}

fn titles(widths: Widths, (left, right): (&str, &str), out: &mut dyn Write) -> io::Result<()> {
    let connection = if widths.connection > 0 {
        format!("{:>1$} ", "CONN", widths.connection)
    } else {
        String::new()
    };
    writeln!(
        out,
        "{:>nw$} {:>sw$} {connection} {left:<STATE$} {:<ARROW$} {right:<STATE$} {:>qw$} {:>aw$} {:>lw$}  NOTES",
        "#",
        "SECONDS",
        "",
        "SEQ",
        "ACK",
        "LEN",
        nw = widths.number,
        sw = widths.seconds,
        qw = widths.seq,
        aw = widths.ack,
        lw = widths.len,
    )
}

/// The widths that these rows need.
fn widths(rows: &[Row], begin_ns: u64) -> Widths {
    let mut widths = Widths {
        number: 1,
        seconds: 8,
        connection: 0,
        seq: 3,
        ack: 3,
        len: 3,
    };
    for row in rows {
        let Row::Packet(packet) = row else {
            continue;
        };
        let since = Since {
            ns: packet.ts_ns,
            from_ns: begin_ns,
        };
        let widen = |width: &mut usize, digits: usize| *width = (*width).max(digits);
        widen(&mut widths.number, digits(&packet.number));
        widen(&mut widths.seconds, digits(&since));
        widen(&mut widths.seq, digits(&packet.seq));
        widen(&mut widths.ack, packet.ack.as_ref().map_or(1, digits));
        widen(&mut widths.len, digits(&packet.len));
    }
    widths
}

/// The two ends of a connection.
fn ends(packet: &ConnectionPacket) -> io::Result<String> {
    let [first, second] = &packet.ends;
    let mut text = Vec::new();
    let mut push = |end: &PacketEnd, role: &str| {
        push_endpoint(&mut text, Some(end.ip()), Some(end.port), usize::MAX)?;
        text.extend_from_slice(role.as_bytes());
        Ok::<_, io::Error>(())
    };
    if packet.has_roles {
        push(first, " (client) - ")?;
        push(second, " (server)")?;
    } else {
        push(first, " - ")?;
        push(second, ", roles unknown")?;
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}
