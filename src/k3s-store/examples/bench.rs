//! Durable 1 KiB puts per second and CPU per put, ours and a real etcd's, on the same disk in the
//! same run: `cargo run --release -p k3s-store --example bench [FOLDER] [SECONDS]`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use etcd::Client;
use etcd::etcdserverpb::{PutRequest, StatusRequest};
use tokio::task::JoinSet;

const CLIENTS: [u64; 3] = [1, 16, 64];
const STORE: &str = "unix:///";
const ETCD: &str = "http://127.0.0.1:23799";
const ETCD_PEER: &str = "http://127.0.0.1:23798";

/// Kernel clock ticks of `/proc/PID/stat`, the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

struct Measured {
    puts_per_second: f64,
    cpu_ms_per_put: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().unwrap_or_else(|| "target/bench-store".to_owned()));
    let seconds: u64 = args.next().as_deref().unwrap_or("3").parse().context("seconds")?;
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    let ours = measure(start_store(&folder)?, &store_endpoint(&folder), seconds).await?;
    let theirs = match start_etcd(&folder) {
        Ok(etcd) => measure(etcd, ETCD, seconds).await?,
        Err(err) => {
            println!("no etcd to compare with: {err}");
            Vec::new()
        }
    };
    println!("clients   store puts/s  CPU ms   etcd puts/s  CPU ms   puts ratio  CPU ratio");
    for (at, clients) in CLIENTS.iter().enumerate() {
        let our = &ours[at];
        print!("{clients:7}   {:12.0}  {:6.3}", our.puts_per_second, our.cpu_ms_per_put);
        if let Some(their) = theirs.get(at) {
            let puts = our.puts_per_second / their.puts_per_second;
            let cpu = our.cpu_ms_per_put / their.cpu_ms_per_put;
            print!("   {:11.0}  {:6.3}", their.puts_per_second, their.cpu_ms_per_put);
            print!("   {puts:10.2}  {cpu:9.2}");
        }
        println!();
    }
    fs::remove_dir_all(&folder)?;
    Ok(())
}

fn store_endpoint(folder: &Path) -> String {
    format!("{STORE}{}", folder.join("store.sock").display()).replace("////", "///")
}

fn start_store(folder: &Path) -> Result<Child> {
    let program = std::env::current_exe()?.with_file_name("store");
    Command::new(&program)
        .arg("--db")
        .arg(folder.join("state.db"))
        .args(["--listen", &store_endpoint(folder)])
        .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{}: build it with --examples", program.display()))
}

fn start_etcd(folder: &Path) -> Result<Child> {
    Command::new("etcd")
        .arg("--data-dir")
        .arg(folder.join("etcd"))
        .args(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD])
        .args(["--listen-peer-urls", ETCD_PEER, "--initial-advertise-peer-urls", ETCD_PEER])
        .args(["--initial-cluster", &format!("default={ETCD_PEER}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("etcd")
}

async fn measure(mut server: Child, endpoint: &str, seconds: u64) -> Result<Vec<Measured>> {
    let client = Client::connect(endpoint)?;
    client.status(StatusRequest {}).await?;
    let mut measured = Vec::new();
    for clients in CLIENTS {
        measured.push(load(&client, server.id(), clients, Duration::from_secs(seconds)).await?);
    }
    println!("{endpoint}: {} KiB resident", resident_kib(server.id())?);
    server.kill()?;
    server.wait()?;
    Ok(measured)
}

async fn load(client: &Client, pid: u32, clients: u64, span: Duration) -> Result<Measured> {
    let done = Arc::new(AtomicU64::new(0));
    let value = bytes::Bytes::from(vec![b'x'; 1024]);
    let (start, cpu) = (Instant::now(), cpu_ticks(pid)?);
    let mut tasks = JoinSet::new();
    for writer in 0..clients {
        let (client, value, done) = (client.clone(), value.clone(), done.clone());
        tasks.spawn(async move {
            while start.elapsed() < span {
                let count = done.fetch_add(1, Ordering::Relaxed);
                let key = format!("/registry/configmaps/default/{clients}-{writer}-{count}").into();
                let request = PutRequest { key, value: value.clone(), ..Default::default() };
                client.put(request).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let puts = done.load(Ordering::Relaxed) as f64;
    let cpu_ms = (cpu_ticks(pid)? - cpu) * 1000.0 / TICKS_PER_SECOND;
    let puts_per_second = puts / start.elapsed().as_secs_f64();
    Ok(Measured { puts_per_second, cpu_ms_per_put: cpu_ms / puts })
}

/// User and system time.
fn cpu_ticks(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').context("stat without a name")?.1;
    let ticks = after_name.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()?)
}

fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
}
