//! The fields of a packet.

use super::column::{Column, Formats, Kind, Table, Value};
use crate::packet::{ConnectionPacket, PacketEnd};

/// A packet of a capture.
#[derive(Clone, Copy, Debug)]
pub struct PacketRow {
    /// The packet.
    pub packet: ConnectionPacket,
    /// Wall-clock time, nanoseconds since 1970.
    pub wall_ns: i64,
}

impl PacketRow {
    const fn client(&self) -> &PacketEnd {
        let [client, _] = &self.packet.ends;
        client
    }

    const fn server(&self) -> &PacketEnd {
        let [_, server] = &self.packet.ends;
        server
    }
}

const STATE_UNKNOWN: &str = "it is not known, or there is no socket of the connection yet";
const NOT_ENDED: &str = "it has not ended with this packet";

/// The fields of a packet.
pub static PACKET: Table<PacketRow> = Table {
    name: "packet",
    doc: "One TCP packet of a capture, and the states of both ends after it. The client is the end that connects. Where the \
          capture does not tell, `roles_known` is false, and the end with the higher port stands as the client.",
    sections: &[
        &[
            Column::<PacketRow>::new(
                "ts",
                Kind::Time,
                |row| Value::Time(row.wall_ns),
                "When it was captured",
            ),
            Column::<PacketRow>::new(
                "number",
                Kind::Number,
                |row| row.packet.number.into(),
                "Its number in the capture, from 1 on",
            ),
            Column::<PacketRow>::new(
                "connection",
                Kind::Number,
                |row| row.packet.connection.into(),
                "The number of its connection in the capture, from 1 on",
            ),
            Column::<PacketRow>::new(
                "roles_known",
                Kind::Bool,
                |row| row.packet.has_roles.into(),
                "Whether the capture tells which end is the client",
            ),
        ],
        &[
            Column::<PacketRow>::new(
                "client.addr",
                Kind::Address,
                |row| row.client().ip().into(),
                "Address of the client",
            ),
            Column::<PacketRow>::new(
                "client.port",
                Kind::Port,
                |row| row.client().port.into(),
                "Port of the client",
            ),
            Column::<PacketRow>::new(
                "client.cookie",
                Kind::Number,
                |row| row.client().cookie.into(),
                "The cookie that its socket has in the transitions of the same capture",
            ),
            Column::<PacketRow>::new(
                "client.state",
                Kind::State,
                |row| row.client().state.into(),
                "State of the client after the packet",
            )
            .unknown(STATE_UNKNOWN),
            Column::<PacketRow>::new(
                "client.cause",
                Kind::Cause,
                |row| row.client().cause.into(),
                "Why the client's socket ended, with this packet",
            )
            .unknown(NOT_ENDED),
        ],
        &[
            Column::<PacketRow>::new(
                "server.addr",
                Kind::Address,
                |row| row.server().ip().into(),
                "Address of the server",
            ),
            Column::<PacketRow>::new(
                "server.port",
                Kind::Port,
                |row| row.server().port.into(),
                "Port of the server",
            ),
            Column::<PacketRow>::new(
                "server.cookie",
                Kind::Number,
                |row| row.server().cookie.into(),
                "The cookie that its socket has in the transitions of the same capture",
            ),
            Column::<PacketRow>::new(
                "server.state",
                Kind::State,
                |row| row.server().state.into(),
                "State of the server after the packet",
            )
            .unknown(STATE_UNKNOWN),
            Column::<PacketRow>::new(
                "server.cause",
                Kind::Cause,
                |row| row.server().cause.into(),
                "Why the server's socket ended, with this packet",
            )
            .unknown(NOT_ENDED),
        ],
        &[
            Column::<PacketRow>::new(
                "from",
                Kind::Word(&["client", "server"]),
                |row| Value::Word(if row.packet.is_of_first { "client" } else { "server" }),
                "The end that sent it",
            ),
            Column::<PacketRow>::new(
                "flags",
                Kind::ControlBits,
                |row| Value::ControlBits(row.packet.flags),
                "Its control bits, with a space between them: `SYN ACK`",
            ),
            Column::<PacketRow>::new(
                "seq",
                Kind::Number,
                |row| row.packet.seq.into(),
                "Its sequence number, relative to its sender's SYN, which has 0. Where that is not in the capture, the first \
                 number seen is 1",
            ),
            Column::<PacketRow>::new(
                "ack",
                Kind::Number,
                |row| row.packet.ack.into(),
                "The number that it acknowledges, relative to the receiver's SYN in the same way",
            )
            .unknown("it acknowledges nothing"),
            Column::<PacketRow>::new(
                "len",
                Kind::Bytes,
                |row| row.packet.len.into(),
                "Its payload, as sent",
            ),
            Column::<PacketRow>::new(
                "window",
                Kind::Number,
                |row| row.packet.window.into(),
                "Its window, as it is in the header: not scaled",
            ),
            Column::<PacketRow>::new(
                "notes",
                Kind::Nested("list of words"),
                |row| Value::Notes(row.packet.notes),
                "Remarks beyond its numbers: `retransmission`, `out_of_order`, `gap` (what its sender sent before it is not in \
                 the capture), `acknowledges_unseen`, `keep_alive`, `keep_alive_answer`, `zero_window`, `window_probe`, \
                 `window_opens`, `duplicate_ack`, `data_on_syn` (TCP Fast Open), `other_syn` (of another connection, or an old \
                 duplicate), `reset_ignored` (its numbers are not those that its receiver takes), `inferred` (a change of \
                 state is, as in `trace`)",
            )
            .only(Formats::Json),
        ],
    ],
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Note;

    #[test]
    fn every_note_is_documented() {
        let doc = PACKET.column("notes").doc;
        for note in Note::ALL {
            assert!(doc.contains(&format!("`{}`", note.name())), "{note:?}");
        }
    }
}
