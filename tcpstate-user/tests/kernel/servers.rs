//! Real servers, each with its own configuration and files, in the namespace of the calling thread.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tcpstate_common::State;

use crate::{
    net::await_that,
    process::{Running, await_exit},
    views::sockets,
};

/// A server that listens on 127.0.0.1. It is killed when this is dropped.
pub struct Server {
    child: Running,
    port: u16,
    files: tempfile::TempDir,
}

impl Server {
    /// nginx in a single process, with these directives for its `http` block.
    pub fn nginx(port: u16, http: &str) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let root = files.path().display();
        let configuration = format!(
            "daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n\
               access_log off; root {root};\n\
               client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;\n\
               fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;\n\
               {http}\n\
               server {{ listen 127.0.0.1:{port}; location / {{ return 200 'there'; }} }}\n\
             }}\n"
        );
        let path = files.path().join("nginx.conf");
        fs::write(&path, configuration)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(files.path()).arg("-c").arg(&path);
        Self::start(command, port, files)
    }

    /// redis with these further arguments.
    pub fn redis(port: u16, arguments: &[&str]) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--save", "", "--port"])
            .arg(port.to_string())
            .arg("--dir")
            .arg(files.path())
            .args(arguments);
        Self::start(command, port, files)
    }

    /// haproxy in front of a server at this port, which it checks as this section says.
    pub fn haproxy(port: u16, backend: u16, section: &str) -> Result<Self> {
        let configuration = format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
             listen front\n  bind 127.0.0.1:{port}\n{section}\n  server one 127.0.0.1:{backend} check inter 1s\n"
        );
        Self::start_haproxy(port, &configuration)
    }

    /// haproxy as a proxy for HTTP in front of a server at this port, whose connections it keeps for an hour.
    pub fn http_proxy(port: u16, backend: u16) -> Result<Self> {
        let configuration = format!(
            "global\n  nbthread 1\n\
             defaults\n  mode http\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
             listen front\n  bind 127.0.0.1:{port}\n  http-reuse always\n\
             \x20 server one 127.0.0.1:{backend} pool-purge-delay 1h\n"
        );
        Self::start_haproxy(port, &configuration)
    }

    fn start_haproxy(port: u16, configuration: &str) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let path = files.path().join("haproxy.cfg");
        fs::write(&path, configuration)?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&path);
        Self::start(command, port, files)
    }

    /// A server for HTTP, in Python, that closes what is idle for two seconds. It answers requests for `/three` when it
    /// has three of them.
    pub fn python(port: u16) -> Result<Self> {
        const SCRIPT: &str = "\
import sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

three = threading.Barrier(3)

class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    timeout = 2

    def do_GET(self):
        if self.path == '/three':
            three.wait()
        self.send_response(200)
        self.send_header('Content-Length', '5')
        self.end_headers()
        self.wfile.write(b'there')

ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
";
        let files = tempfile::tempdir()?;
        let mut command = Command::new("python3");
        command.args(["-c", SCRIPT]).arg(port.to_string());
        Self::start(command, port, files)
    }

    fn start(mut command: Command, port: u16, files: tempfile::TempDir) -> Result<Self> {
        let log = fs::File::create(files.path().join("log"))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut this = Self {
            child: Running::new(&mut command)?,
            port,
            files,
        };
        let is_ready = |this: &mut Self| -> Result<bool> {
            if let Some(status) = this.child.try_wait()? {
                let log = fs::read_to_string(this.files.path().join("log"))?;
                anyhow::bail!("{command:?} ended ({status}): {log}");
            }
            Ok(sockets(State::LISTEN)?.contains(&(port, 0)))
        };
        await_that("the server listens", || is_ready(&mut this))?;
        Ok(this)
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Connects to it.
    pub fn connect(&self) -> Result<TcpStream> {
        let to = (Ipv4Addr::LOCALHOST, self.port);
        TcpStream::connect(to).with_context(|| format!("connect to {to:?}"))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Ends it by a signal, and waits for its end.
    pub fn end(mut self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        await_exit(&mut self.child)?;
        Ok(())
    }
}

/// Sends a request, and reads as much as comes at once of an answer that begins so.
pub fn ask(stream: &mut TcpStream, request: &str, answer: &str) -> Result<()> {
    stream.write_all(request.as_bytes())?;
    let mut bytes = [0; 1_024];
    let read = stream.read(&mut bytes)?;
    let text = String::from_utf8_lossy(bytes.get(..read).unwrap_or_default());
    ensure!(text.starts_with(answer), "{request:?}: {text:?}");
    Ok(())
}

/// Asks redis whether it is there.
pub fn ping(stream: &mut TcpStream) -> Result<()> {
    ask(stream, "PING\r\n", "+PONG")
}

/// Asks a server for HTTP on a connection that stays open.
pub fn get(stream: &mut TcpStream) -> Result<()> {
    get_path(stream, "/")
}

/// The same for another path.
pub fn get_path(stream: &mut TcpStream, path: &str) -> Result<()> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: there\r\n\r\n");
    ask(stream, &request, "HTTP/1.1 200")
}

/// Loads a server at this port for a time such as `2s`.
pub fn wrk(port: u16, duration: &str) -> Result<()> {
    let output = Command::new("wrk")
        .args(["-t1", "-c4", "-d", duration])
        .arg(format!("http://127.0.0.1:{port}/"))
        .output()
        .context("wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && text.contains("requests in"),
        "wrk: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
