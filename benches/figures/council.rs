//! What it costs that several daemons decide together: three of them on a real etcd of three members, while nothing happens.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::probing::{add_services, ground};
use crate::servers::Servers;
use crate::table::{Figure, Goal};

const SEATS: [&str; 3] = ["east", "west", "third"];
/// Each has an instance in both regions: 100 instances.
const SERVICES: usize = 50;
/// A leader is chosen, caches fill, the allocator finds its size.
const WARM_UP: Duration = Duration::from_secs(15);
/// Several lifetimes of every lease.
const MEASURED: Duration = Duration::from_secs(60);

pub(crate) fn measure(folder: &Path) -> Result<Vec<Figure>> {
    let servers = Servers::start(folder)?;
    let lab = Lab::up("etcd")?;
    let members: Vec<SocketAddr> = lab
        .texts("/etcd/endpoints")
        .into_iter()
        .map(|endpoint| endpoint.trim_start_matches("http://").parse().context("an endpoint of etcd"))
        .collect::<Result<_>>()?;
    ensure!(members.len() == 3, "etcd has {} members", members.len());
    let apis = [free_address()?, free_address()?, free_address()?];
    let mut daemons = Vec::new();
    for (seat, api) in SEATS.iter().zip(&apis) {
        let traffic = Arc::new(AtomicU64::new(0));
        let ways = members.iter().map(|member| relay(*member, Arc::clone(&traffic))).collect::<Result<Vec<_>>>()?;
        let config = configure(seat, *api, &ways, &apis, &servers, folder);
        daemons.push((Daemon::start_as_configured(&folder.join(seat), &config)?, traffic));
    }
    for (daemon, _) in &daemons {
        daemon.all_alive(Duration::from_secs(60))?;
    }
    daemons.first().context("three daemons")?.0.adopt()?;
    std::thread::sleep(WARM_UP);
    let began = Instant::now();
    let read = |(daemon, traffic): &(Daemon, Arc<AtomicU64>)| -> Result<(Duration, u64, f64)> {
        let probes = daemon.metric("failoverd_probes_total", "kind=")?;
        Ok((daemon.processor_time()?, traffic.load(Ordering::Relaxed), probes))
    };
    let before = daemons.iter().map(read).collect::<Result<Vec<_>>>()?;
    std::thread::sleep(MEASURED);
    let after = daemons.iter().map(read).collect::<Result<Vec<_>>>()?;
    let took = began.elapsed().as_secs_f64();
    let (mut share, mut bytes, mut memory) = (0.0_f64, 0.0_f64, 0.0_f64);
    for (((daemon, _), before), after) in daemons.iter().zip(before).zip(after) {
        let probes = (after.2 - before.2) / took;
        ensure!(probes > 1.9 * SERVICES as f64, "only {probes:.0} probes a second");
        share = share.max(100.0 * after.0.saturating_sub(before.0).as_secs_f64() / took);
        bytes = bytes.max((after.1 - before.1) as f64 / took);
        memory = memory.max(daemon.memory()?.0 as f64 / (1024.0 * 1024.0));
    }
    let what = "three daemons on etcd, 100 HTTP instances each once a second, the highest of the three";
    let figure = |name: &str, of: &str, value, unit, goal| Figure {
        name: format!("council-{name}"),
        what: format!("{what}: {of}"),
        value,
        unit,
        goal: Some(Goal::Below(goal)),
        note: format!("over {took:.0} s in which nothing happens"),
    };
    Ok(vec![
        figure("cpu", "processor", share, "% of a core", 5.0),
        figure("rss", "memory", memory, "MiB resident", 48.0),
        figure("traffic", "bytes to and from etcd", bytes, "B/s", 1024.0),
    ])
}

fn configure(
    seat: &str,
    api: SocketAddr,
    etcd: &[SocketAddr],
    apis: &[SocketAddr; 3],
    servers: &Servers,
    folder: &Path,
) -> String {
    let etcd: Vec<String> = etcd.iter().map(|way| format!("http://{way}")).collect();
    let mut text = format!(
        "[deployment]\nname = \"bench\"\nmode = \"automatic\"\n[observer]\nname = \"in-{seat}\"\nregion = \"{seat}\"\n\
         [ledger]\nstop_file = \"{}\"\n[ledger.etcd]\nendpoints = {etcd:?}\n\
         [api]\nlisten = \"{api}\"\ntoken = {{ env = \"BENCH_TOKEN\" }}\n[regions.third]\nrole = \"tertiary\"\n",
        folder.join(format!("STOP-{seat}")).display(),
    );
    for (seat, api) in SEATS.iter().zip(apis) {
        let _ = writeln!(text, "[council.observers.in-{seat}]\nregion = \"{seat}\"\napi = \"{api}\"");
    }
    text += &ground(servers, folder);
    add_services(&mut text, servers, "http", false, SERVICES);
    text
}

/// Nobody listens there: whoever wants to is next.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A way to `to` on which every byte is counted, in both directions.
fn relay(to: SocketAddr, traffic: Arc<AtomicU64>) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect(to) else { continue };
            let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else { continue };
            for (from, to) in [(near, far_too), (far, near_too)] {
                let traffic = Arc::clone(&traffic);
                std::thread::spawn(move || pass_on(from, to, &traffic));
            }
        }
    });
    Ok(address)
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, traffic: &AtomicU64) {
    let mut piece = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut piece) {
        traffic.fetch_add(read as u64, Ordering::Relaxed);
        if to.write_all(piece.get(..read).unwrap_or_default()).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
