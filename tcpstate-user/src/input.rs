//! The file that `-r` names: a recording or a packet capture, which its first bytes tell.

use std::{
    fs::{File, Metadata},
    io::{self, Cursor, Read},
    path::Path,
};

#[cfg(feature = "pcap")]
use anyhow::anyhow;
use tcpstate_core::source::EventSource;
#[cfg(feature = "pcap")]
use tcpstate_packets::{
    format::is_capture,
    source::{self, Capture},
};
use tcpstate_recording::Reader;

/// The wanted parts of a capture.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    /// Connections that are followed at a time.
    #[cfg_attr(not(feature = "pcap"), expect(dead_code, reason = "of captures"))]
    pub(crate) max_connections: usize,
    /// Whether its packets come too.
    pub(crate) packets: bool,
    /// Whether packets with wrong checksums are left out.
    pub(crate) verify_checksums: bool,
}

#[cfg(feature = "pcap")]
impl Options {
    const fn of_capture(self) -> source::Options {
        source::Options {
            max_connections: self.max_connections,
            packets: self.packets,
            verify_checksums: self.verify_checksums,
        }
    }
}

/// Opens a file, `-` for standard input, as a source.
pub(crate) fn open(path: &Path, options: Options) -> anyhow::Result<Box<dyn EventSource>> {
    if path.as_os_str() == "-" {
        return from(io::stdin(), "standard input".to_owned(), None, options);
    }
    let Ok(file) = File::open(path) else {
        // It says why.
        return Ok(Box::new(Reader::open(path)?));
    };
    let metadata = file.metadata().ok();
    let total_bytes = metadata.filter(Metadata::is_file).map(|it| it.len());
    // Going back takes the file itself.
    let place = total_bytes.map(|bytes| (path, bytes));
    from(file, path.display().to_string(), place, options)
}

/// The source that these bytes are of. `file`: where they can be read again, and their number.
fn from(
    mut stream: impl Read + Send + 'static,
    name: String,
    file: Option<(&Path, u64)>,
    options: Options,
) -> anyhow::Result<Box<dyn EventSource>> {
    // A failure comes again when it is read.
    let first = first_bytes(&mut stream).unwrap_or_default();
    let is_packets = is_capture(&first);
    let stream = Cursor::new(first).chain(stream);
    if is_packets {
        #[cfg(feature = "pcap")]
        return match Capture::new(
            stream,
            name,
            file.map(|(_, bytes)| bytes),
            options.of_capture(),
        ) {
            Ok(capture) => Ok(Box::new(capture)),
            Err(error) => Err(of_capture(error)),
        };
        #[cfg(not(feature = "pcap"))]
        anyhow::bail!("{name} is a packet capture, and this build has no feature pcap");
    }
    let reader = match file {
        Some((path, _)) => Reader::open(path),
        None => Reader::new(stream, name.clone(), None),
    };
    let asked = [
        (options.packets, "--packets"),
        (options.verify_checksums, "--verify-checksums"),
    ];
    if let Some((_, option)) = asked.into_iter().find(|&(is_asked, _)| is_asked)
        && reader.is_ok()
    {
        anyhow::bail!(
            "{name} is a recording, which has no packets: {option} takes a packet capture (pcap, pcapng)"
        );
    }
    match reader {
        Ok(recording) => Ok(Box::new(recording)),
        Err(error) => Err(of_recording(error)),
    }
}

/// The first bytes of a capture or of compressed data are there. So it is the contents that are no capture.
#[cfg(feature = "pcap")]
fn of_capture(error: tcpstate_packets::source::ReadError) -> anyhow::Error {
    use tcpstate_packets::{format::FormatError, source::ReadError};
    match error {
        ReadError::NotReadable {
            name,
            reason: reason @ (FormatError::Empty | FormatError::Magic),
        } => anyhow!("{name} is compressed, and what is inside {reason}"),
        other => other.into(),
    }
}

/// A file that is no recording is no capture either: it would have been taken for one.
#[cfg(feature = "pcap")]
fn of_recording(error: tcpstate_recording::ReadError) -> anyhow::Error {
    use tcpstate_recording::{HeaderError, ReadError};
    match error {
        ReadError::NotReadable {
            name,
            reason: HeaderError::Foreign,
        } => anyhow!(
            "{name} is neither a recording of `tcpstate record` nor a packet capture (pcap, pcapng)"
        ),
        other => other.into(),
    }
}

#[cfg(not(feature = "pcap"))]
fn of_recording(error: tcpstate_recording::ReadError) -> anyhow::Error {
    error.into()
}

fn first_bytes(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut first = Vec::with_capacity(4);
    stream.take(4).read_to_end(&mut first)?;
    Ok(first)
}

/// Whether it is a file, which has an end and can be read again.
pub(crate) fn is_file(path: &Path) -> bool {
    path.as_os_str() != "-" && std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// Whether a file is a packet capture; not of a pipe, which can be read only once.
fn is_packets(path: &Path) -> bool {
    is_file(path)
        && File::open(path)
            .and_then(|mut file| first_bytes(&mut file))
            .is_ok_and(|first| is_capture(&first))
}

/// Whether there may be sockets of several network namespaces in a file. Of a pipe it is not known yet; a file that cannot be
/// read is refused when it is opened.
pub(crate) fn may_have_several_netns(path: &Path) -> bool {
    !is_packets(path) && !matches!(tcpstate_recording::has_several_netns(path), Ok(Some(false)))
}

/// When a file ends, on the clock of its events; `None` of a pipe, which can be read only once.
pub(crate) fn end_of(path: &Path) -> anyhow::Result<Option<u64>> {
    #[cfg(feature = "pcap")]
    if is_packets(path) {
        return Ok(tcpstate_packets::source::end_of(path)?);
    }
    Ok(tcpstate_recording::end_of(path)?)
}

/// Whether these bytes begin a packet capture that is not compressed, so that it can be refused by that name.
#[cfg(not(feature = "pcap"))]
const fn is_capture(first: &[u8]) -> bool {
    matches!(
        first,
        [0xd4, 0xc3, 0xb2, 0xa1]
            | [0xa1, 0xb2, 0xc3, 0xd4]
            | [0x4d, 0x3c, 0xb2, 0xa1]
            | [0xa1, 0xb2, 0x3c, 0x4d]
            | [0x0a, 0x0d, 0x0d, 0x0a]
    )
}

#[cfg(test)]
mod tests {
    use tcpstate_core::origin::Origin;
    use tcpstate_recording::Writer;

    use super::*;

    /// A recording that is played jumps back.
    #[test]
    fn a_recording_in_a_file_can_be_gone_back_in() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rec");
        let origin = Origin {
            host: String::new(),
            kernel: String::new(),
            attach: String::new(),
            wall_at_monotonic_zero_ns: 0,
            started_ns: 1,
            filters: String::new(),
            live: true,
            sample_interval_ns: None,
        };
        let writer = Writer::create(&path, &origin, tcpstate_recording::Options::default());
        writer.unwrap().finish(None, None).unwrap();
        let options = Options {
            max_connections: 1,
            packets: false,
            verify_checksums: false,
        };
        let mut source = open(&path, options).unwrap();
        assert!(source.seeking().is_some());
        // A pipe has been read when it has been read.
        let stream = File::open(&path).unwrap();
        let mut source = from(stream, "pipe".to_owned(), None, options).unwrap();
        assert!(source.seeking().is_none());
    }
}
