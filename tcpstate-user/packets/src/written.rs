//! Captures for tests, written here: packets of any layers in files of any format.

/// A TCP segment with ports 40000 and 80, as bytes: flags, sequence and acknowledgement number, payload.
pub(crate) fn tcp(flags: u8, seq: u32, ack: u32, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(40_000_u16.to_be_bytes());
    bytes.extend(80_u16.to_be_bytes());
    bytes.extend(seq.to_be_bytes());
    bytes.extend(ack.to_be_bytes());
    bytes.extend([5 << 4, flags, 1, 2, 0, 0, 0, 0]);
    bytes.resize(20 + len, b'x');
    bytes
}

/// An IPv4 packet from 10.0.0.1 to 10.0.0.2.
pub(crate) fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap();
    let mut bytes = vec![0x45, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes.extend(payload);
    bytes
}

/// An IPv6 packet from `fd00::1` to `fd00::2`, which begins with this header.
pub(crate) fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([next, 64]);
    for host in [1, 2] {
        bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
    }
    bytes.extend(payload);
    bytes
}

/// A header before a payload.
pub(crate) fn behind(header: &[u8], payload: &[u8]) -> Vec<u8> {
    [header, payload].concat()
}

/// An Ethernet frame of this type.
pub(crate) fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2; 12];
    bytes.extend(kind.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The byte order of a file, and what it does to a number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) is_big: bool,
}

impl Written {
    pub(crate) fn u16(self, number: u16) -> [u8; 2] {
        if self.is_big {
            number.to_be_bytes()
        } else {
            number.to_le_bytes()
        }
    }

    pub(crate) fn u32(self, number: u32) -> [u8; 4] {
        if self.is_big {
            number.to_be_bytes()
        } else {
            number.to_le_bytes()
        }
    }

    /// A pcap file with this magic: packets with seconds, their fractions, and the length on the wire where it is not that of
    /// the bytes.
    pub(crate) fn pcap(self, magic: u32, link: u32, packets: &[(u32, u32, Vec<u8>)]) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend(self.u32(magic));
        file.extend(self.u16(2));
        file.extend(self.u16(4));
        for number in [0, 0, 65_535, link] {
            file.extend(self.u32(number));
        }
        for (seconds, fraction, bytes) in packets {
            let length = u32::try_from(bytes.len()).unwrap();
            for number in [*seconds, *fraction, length, length] {
                file.extend(self.u32(number));
            }
            if magic == 0xa1b2_cd34 {
                file.extend([0; 8]);
            }
            file.extend(bytes);
        }
        file
    }

    /// A pcapng block.
    pub(crate) fn block(self, kind: u32, body: &[u8]) -> Vec<u8> {
        let padded = body.len().next_multiple_of(4);
        let length = u32::try_from(padded + 12).unwrap();
        let mut bytes = Vec::new();
        bytes.extend(self.u32(kind));
        bytes.extend(self.u32(length));
        bytes.extend(body);
        bytes.resize(8 + padded, 0);
        bytes.extend(self.u32(length));
        bytes
    }

    /// The block that begins a section.
    pub(crate) fn section(self) -> Vec<u8> {
        let mut body = self.u32(0x1a2b_3c4d).to_vec();
        body.extend(self.u16(1));
        body.extend(self.u16(0));
        body.extend([0xff; 8]);
        self.block(0x0a0d_0d0a, &body)
    }

    /// An option of a block.
    pub(crate) fn option(self, code: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = self.u16(code).to_vec();
        bytes.extend(self.u16(u16::try_from(value.len()).unwrap()));
        bytes.extend(value);
        bytes.resize(4 + value.len().next_multiple_of(4), 0);
        bytes
    }

    /// An interface with this link type and these options.
    pub(crate) fn interface(self, link: u16, snap: u32, options: &[u8]) -> Vec<u8> {
        let mut body = self.u16(link).to_vec();
        body.extend([0, 0]);
        body.extend(self.u32(snap));
        body.extend(options);
        self.block(1, &body)
    }

    /// An enhanced packet of this interface and time.
    pub(crate) fn packet(self, interface: u32, ticks: u64, bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).unwrap();
        let high = u32::try_from(ticks >> 32).unwrap();
        let low = u32::try_from(ticks & 0xffff_ffff).unwrap();
        let mut body = Vec::new();
        for number in [interface, high, low, length, length] {
            body.extend(self.u32(number));
        }
        body.extend(bytes);
        self.block(6, &body)
    }
}

/// Little-endian, as most files are.
pub(crate) const LITTLE: Written = Written { is_big: false };
/// Big-endian.
pub(crate) const BIG: Written = Written { is_big: true };
