//! Measures the network in a guest: blockbox's gateway, `passt --fd` and QEMU's slirp between the
//! same guest and the same host.
//!
//! Every run is a separate machine. The guest downloads from a port of the host's loopback and
//! uploads to it; then the host exchanges bytes with an echo server in the guest, and fetches a
//! page from its web server repeatedly, each time over a new connection. All times are the host's.

mod link;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use self::link::{GUEST, HOST, Kind, Link};
use super::Setting;
use super::guest::{Machine, Root};
use super::report::median;
use crate::shell::processor_time;

/// The ports of the guest's servers.
const WEB: u16 = 80;
const ECHO: u16 = 7;

/// How much is sent in each direction, in MiB.
const MEBIBYTES: usize = 64;

/// The number of round trips, and of pages fetched.
const TURNS: u32 = 500;
const PAGES: u32 = 100;

/// How long a machine may be silent.
const LIMIT: Duration = Duration::from_secs(120);

/// How often a failed run is repeated: the machine may hang, or another program may use a port.
const TRIES: u32 = 2;

/// The measurements of one machine, in the order of [`ROWS`].
type Figures = [f64; 8];

/// The rows: name, unit, and whether more is better. Processor time is that of QEMU, which emulates
/// the guest, and of the process between it and the host: it depends less on other work of the
/// host.
const ROWS: [(&str, &str, bool); 8] = [
    ("download over one connection", "MB/s", true),
    ("upload over one connection", "MB/s", true),
    ("round trip of a byte", "µs", false),
    ("new connection and a page", "ms", false),
    ("processor time: download of a MiB", "ms", false),
    ("processor time: upload of a MiB", "ms", false),
    ("processor time: round trip of a byte", "µs", false),
    ("processor time: new connection and a page", "ms", false),
];

/// The results of one way to the host.
pub(super) struct Standing {
    name: &'static str,
    figures: Result<Vec<Figures>, String>,
}

/// Measures each way in every round, in a changing order.
pub(super) fn run(setting: &Setting) -> Result<Vec<Standing>> {
    let folder = setting.path("network");
    std::fs::create_dir(&folder)?;
    let root = Root::prepare(setting, &folder.join("root"))?;
    let machine = Machine::prepare(setting, &root, &folder)?;
    let kinds = Kind::ALL
        .into_iter()
        .filter(|kind| setting.wants(kind.name()));
    let kinds: Vec<_> = kinds.collect();
    let standings = kinds.iter().map(|kind| Standing {
        name: kind.name(),
        figures: Ok(Vec::new()),
    });
    let mut standings: Vec<_> = standings.collect();
    for round in 0..setting.rounds as usize {
        for turn in 0..kinds.len() {
            let index = (round + turn) % kinds.len();
            let (kind, standing) = (kinds[index], &mut standings[index]);
            if let Ok(figures) = &mut standing.figures {
                let mut measured = Err(anyhow::anyhow!("not tried"));
                for _ in 0..TRIES {
                    eprintln!("bench: network: {} in round {}", kind.name(), round + 1);
                    measured = one(setting, &root, &machine, kind, &folder.join("disk"));
                    match &measured {
                        Ok(figures) => {
                            eprintln!("bench: network: {}: {}", kind.name(), shown(figures));
                            break;
                        }
                        Err(error) => eprintln!("bench: network: {}: {error:#}", kind.name()),
                    }
                }
                match measured {
                    Ok(found) => figures.push(found),
                    Err(error) => standing.figures = Err(format!("{error:#}")),
                }
            }
        }
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(standings)
}

/// Formats the measurements of one machine in a line.
fn shown(figures: &Figures) -> String {
    let rows = ROWS.iter().zip(figures);
    let rows = rows.map(|((what, unit, _), value)| format!("{what} {value:.1} {unit}"));
    rows.collect::<Vec<_>>().join(", ")
}

/// QEMU, which is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots one machine.
fn one(
    setting: &Setting,
    root: &Root,
    machine: &Machine,
    kind: Kind,
    disk: &Path,
) -> Result<Figures> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    // The last connection keeps the guest running until the host has finished. Standard input never
    // ends: nc would pass on the end at once, and passt (2023) never finishes sending to a peer
    // that has shut down its own side, or loses what that peer sent before.
    let script = format!(
        "ip link set lo up; ip link set eth0 up; ip addr add {GUEST}/24 dev eth0\n\
         ip route add default via 10.187.1.1 || true\n\
         mkdir /www; echo page >/www/page; httpd -p {WEB} -h /www\n\
         nc -ll -p {ECHO} -e cat >/dev/null 2>&1 &\n\
         mkfifo /open; exec 3<>/open\n\
         nc {HOST} {port} <&3 >/dev/null\n\
         mkfifo /up; {{ dd if=/dev/zero bs=64k count={} 2>/dev/null; cat /open; }} >/up &\n\
         nc {HOST} {port} </up\n\
         nc {HOST} {port} <&3\n",
        MEBIBYTES * 16
    );
    root.disk(setting, disk, &script)?;
    let mut link = Link::open(setting, kind, port)?;
    let mut qemu = machine.networked(disk, &link.netdev)?;
    if let Some(stdin) = link.stdin.take() {
        qemu.stdin(stdin);
    }
    let mut running = Running(qemu.stdout(std::process::Stdio::null()).spawn()?);
    drop(qemu);

    let programs: Vec<_> = link.process().into_iter().chain([running.0.id()]).collect();
    let mut down = accept(&listener, &mut running, machine)?;
    let block = vec![0x5a; 1 << 20];
    let start = Start::now(&programs);
    for _ in 0..MEBIBYTES {
        down.write_all(&block)?;
    }
    down.shutdown(std::net::Shutdown::Write)?;
    // The guest closes its side when it has read everything.
    down.read_to_end(&mut Vec::new())?;
    let (download, download_work) = start.elapsed();

    let mut up = accept(&listener, &mut running, machine)?;
    let mut arrived = vec![0; MEBIBYTES << 20];
    let start = Start::now(&programs);
    up.read_exact(&mut arrived)?;
    let (upload, upload_work) = start.elapsed();
    drop(up);

    let hold = accept(&listener, &mut running, machine)?;
    let start = Start::now(&programs);
    let round_trip = round_trips(link.ports[1])?;
    let (_, turns_work) = start.elapsed();
    let start = Start::now(&programs);
    let page = pages(link.ports[0])?;
    let (_, pages_work) = start.elapsed();
    drop(hold);
    let rate = |time: Duration| (MEBIBYTES << 20) as f64 / 1e6 / time.as_secs_f64();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    Ok([
        rate(download),
        rate(upload),
        milliseconds(round_trip) * 1e3,
        milliseconds(page),
        milliseconds(download_work) / MEBIBYTES as f64,
        milliseconds(upload_work) / MEBIBYTES as f64,
        milliseconds(turns_work / TURNS) * 1e3,
        milliseconds(pages_work / PAGES),
    ])
}

/// The time at the start, and the processor time of programs.
struct Start<'a> {
    programs: &'a [u32],
    wall: Instant,
    work: Duration,
}

impl<'a> Start<'a> {
    fn now(programs: &'a [u32]) -> Self {
        Self {
            programs,
            wall: Instant::now(),
            work: work(programs),
        }
    }

    /// Returns the time since the start, and the processor time that the programs have used.
    fn elapsed(&self) -> (Duration, Duration) {
        (
            self.wall.elapsed(),
            work(self.programs).saturating_sub(self.work),
        )
    }
}

fn work(programs: &[u32]) -> Duration {
    let times = programs
        .iter()
        .filter_map(|&program| processor_time(program));
    times.sum()
}

/// Connects to a port that is open.
fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// Accepts the guest's next connection.
fn accept(listener: &TcpListener, running: &mut Running, machine: &Machine) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let start = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(LIMIT))?;
                stream.set_write_timeout(Some(LIMIT))?;
                return Ok(stream);
            }
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                return Err(error.into());
            }
            Err(_) => {}
        }
        if running.0.try_wait()?.is_some() || start.elapsed() > LIMIT {
            bail!("the guest does not connect: {}", machine.last_words());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Returns the median time of a byte to the guest's echo server and back.
fn round_trips(port: u16) -> Result<Duration> {
    let mut stream = connect(port)?;
    stream.set_nodelay(true)?;
    let mut times = Vec::new();
    for _ in 0..TURNS {
        let start = Instant::now();
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        times.push(start.elapsed());
    }
    median(&times, |time| *time).context("no turns")
}

/// Returns the median time to fetch a page over a new connection.
fn pages(port: u16) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..PAGES {
        let start = Instant::now();
        let mut stream = connect(port)?;
        stream.write_all(b"GET /page HTTP/1.0\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        ensure!(page.ends_with("page\n"), "{page:?}");
        times.push(start.elapsed());
    }
    median(&times, |time| *time).context("no pages")
}

impl Standing {
    /// Returns the median of a row.
    fn median(&self, row: usize) -> Option<f64> {
        let figures = self.figures.as_ref().ok()?;
        let mut values: Vec<_> = figures.iter().map(|figures| figures[row]).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }
}

/// Returns a table with a column for each way, and the ratio of ours to the better of the others.
pub(super) fn markdown(standings: &[Standing]) -> String {
    let mut text = "\n| median |".to_owned();
    for standing in standings {
        text += &format!(" {} |", standing.name);
    }
    text += " ours against the better one |\n|---|--:|";
    text += &"--:|".repeat(standings.len());
    text.push('\n');
    for (row, (what, unit, more)) in ROWS.iter().enumerate() {
        let medians: Vec<_> = standings
            .iter()
            .map(|standing| standing.median(row))
            .collect();
        text += &format!("| {what} |");
        for value in &medians {
            let shown = value.map_or_else(|| "–".to_owned(), |value| format!("{value:.1} {unit}"));
            text += &format!(" {shown} |");
        }
        text += &match ratio(&medians, *more) {
            Some(ratio) => format!(" {ratio:.2}× |\n"),
            None => " – |\n".to_owned(),
        };
    }
    for standing in standings {
        if let Err(error) = &standing.figures {
            text += &format!("\n{} was not measured: {error}\n", standing.name);
        }
    }
    text
}

/// Returns how much better the first is than the best of the others; below 1 it is worse.
fn ratio(medians: &[Option<f64>], more: bool) -> Option<f64> {
    let (ours, others) = medians.split_first()?;
    let others = others.iter().flatten().copied();
    let best = if more {
        others.reduce(f64::max)
    } else {
        others.reduce(f64::min)
    }?;
    Some(if more {
        (*ours)? / best
    } else {
        best / (*ours)?
    })
}

/// All figures.
pub(super) fn json(standings: &[Standing]) -> Value {
    let rows: Vec<_> = ROWS
        .iter()
        .map(|(what, unit, _)| json!([what, unit]))
        .collect();
    let ways: Vec<_> = standings
        .iter()
        .map(|standing| match &standing.figures {
            Ok(figures) => json!({ "name": standing.name, "figures": figures }),
            Err(error) => json!({ "name": standing.name, "error": error }),
        })
        .collect();
    json!([{ "rows": rows, "ways": ways }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_above_one_where_ours_is_better() {
        let medians = |ours| [Some(ours), Some(4.0), None, Some(8.0)];
        assert_eq!(ratio(&medians(16.0), true), Some(2.0));
        assert_eq!(ratio(&medians(2.0), false), Some(2.0));
        assert_eq!(ratio(&[Some(1.0), None, None], true), None);
    }
}
