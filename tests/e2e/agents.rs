//! A second machine that joins as an agent: its own network, mounts and host name, a real containerd
//! and kubelet, and a firewall that lets no server in.
//!
//! Invariant: the machine is gone again, Node included, when the last step has run.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::{LOG, Step};
use crate::cluster::{
    Cluster, IMAGE, PATIENCE, apply, components, k3s, kill, kubectl, kubectl_fails, run,
};

pub(super) const STEPS: &[Step] = &[
    ("an agent that may not join says why, and what to do", refusals),
    ("an agent joins by its token and becomes Ready", join),
    ("a pod of an agent answers across the pod network and on a Service", pods),
    ("logs, exec, port-forward and metrics reach an agent that no server can dial", nat),
    ("an agent renews what its server gave it and goes on", renews),
    ("an agent's tunnel returns after the death of the API server", api_dies),
    ("an agent starts without its server, and comes back when that does", server_restarts),
    ("an agent that restarts keeps its pods", agent_restarts),
    ("an agent works on while its certificates live for seconds", short_lives),
    ("an agent is let in by a bootstrap token while that exists", bootstrap_token),
    ("an agent's token is another one once it was rotated", rotate),
    ("an agent that is deleted frees its name", leave),
];

const URL: &str = "https://192.0.2.1:6443";
const ADDRESS: &str = "192.0.2.2";

static AGENT: Mutex<Option<Agent>> = Mutex::new(None);

/// A machine beside this one, on the same wire.
struct Machine {
    dir: PathBuf,
    /// Holds the machine's namespaces.
    init: Child,
}

impl Machine {
    fn new(name: &str) -> Result<Self> {
        wire()?;
        let dir =
            PathBuf::from(std::env::var("K3S_ISOLATE_DIR").unwrap_or("/run".into())).join(name);
        fs::create_dir_all(&dir)?;
        let script = format!(
            "set -e; mount --make-rshared /; \
             for folder in /etc/rancher /var/lib/rancher /var/lib/kubelet /var/lib/cni /var/log; do \
               mkdir -p {0}$folder $folder; mount --bind {0}$folder $folder; done; \
             mount -t tmpfs -o mode=755 tmpfs /run; hostname {name}; touch {0}/up; \
             exec sleep infinity",
            dir.display()
        );
        let init = Command::new("nsenter")
            .args(["--net=/run/netns/agent", "unshare", "--mount", "--uts"])
            .args(["--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .context("starting a second machine")?;
        let up = dir.join("up");
        crate::cluster::wait("the second machine", PATIENCE, &mut || Ok(up.exists()))?;
        Ok(Self { dir, init })
    }

    /// A command on this machine.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args([&format!("--target={}", self.init.id()), "--mount", "--uts", "--net"]);
        command.arg(program).stdin(Stdio::null());
        command
    }

    /// Runs an agent that must end by itself, and returns what it said.
    fn refused(&self, args: &[&str]) -> Result<String> {
        let mut command = self.command(Path::new("timeout"));
        command.args(["--signal=KILL", "40"]).arg(k3s()).arg("agent").args(args);
        let output = command.arg("--lb-server-port=7444").output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(78), "{:?}: {text}", output.status);
        ensure!(!text.contains("panicked"), "{text}");
        Ok(text)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.init.kill();
        let _ = self.init.wait();
    }
}

/// A machine with a running `k3s agent`.
struct Agent {
    machine: Machine,
    process: Child,
}

impl Agent {
    fn start(machine: Machine) -> Result<Self> {
        let log = File::options().create(true).append(true).open("/var/log/k3s-agent.log")?;
        let process = machine
            .command(&k3s())
            .args(["agent", "--kubelet-arg=cgroup-root=/kubepods-agent"])
            .env("K3S_URL", URL)
            .env("K3S_TOKEN", token()?)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting k3s agent")?;
        Ok(Self { machine, process })
    }

    fn stop(mut self) -> Result<Machine> {
        kill(self.process.id(), Signal::TERM)?;
        let ended = crate::cluster::wait("the agent to end", PATIENCE, &mut || {
            Ok(self.process.try_wait()?.is_some())
        });
        ended.map(|()| self.machine)
    }
}

/// The wire's other end in a network namespace of its own. Another test may have it already.
fn wire() -> Result<()> {
    if Path::new("/run/netns/agent").exists() {
        return Ok(());
    }
    ip("netns add agent")?;
    match Path::new("/run/netns/two").exists() {
        true => ip("-n two link set uplink netns agent")?,
        false => ip("link set uplink netns agent")?,
    };
    for line in [
        "link set lo up",
        "address add 192.0.2.2/24 dev uplink",
        "link set uplink up",
        "route add default via 192.0.2.254",
    ] {
        ip(&format!("-n agent {line}"))?;
    }
    Ok(())
}

fn ip(line: &str) -> Result<String> {
    run(Command::new("ip").args(line.split(' ')))
}

fn token() -> Result<String> {
    let text = fs::read_to_string("/var/lib/rancher/k3s/server/node-token").context("the token")?;
    Ok(text.trim().to_owned())
}

fn with_agent<T>(work: impl FnOnce(&mut Option<Agent>) -> Result<T>) -> Result<T> {
    let mut agent = AGENT.lock().unwrap_or_else(PoisonError::into_inner);
    work(&mut agent).with_context(|| {
        let log = fs::read_to_string("/var/log/k3s-agent.log").unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n");
        format!("the agent said:\n{last}\n")
    })
}

fn refusals(_: &mut Cluster) -> Result<()> {
    let machine = Machine::new("stranger")?;
    let good = token()?;
    let (hash, _) = good.split_once("::").context("the token has no hash")?;
    let server = format!("--server={URL}");
    for (args, says) in [
        (vec![server.clone()], vec!["--token", "node-token"]),
        (vec![format!("--token={good}")], vec!["--server", "https://host:6443"]),
        (
            vec!["--server=http://192.0.2.1:6443".to_owned(), format!("--token={good}")],
            vec!["must begin with https://", "https://192.0.2.1:6443"],
        ),
        (
            vec![server.clone(), format!("--token={hash}::server:wrong")],
            vec!["refused the token", "cat /var/lib/rancher/k3s/server/node-token"],
        ),
        (vec![server.clone(), "--token=wrong".to_owned()], vec!["refused the token"]),
        (
            vec![server.clone(), "--token=abcdef.0123456789abcdef".to_owned()],
            vec!["bootstrap token", "k3s token create"],
        ),
        (
            vec![server.clone(), format!("--token=K10{}::server:x", "0".repeat(64))],
            vec!["another cluster", "node-token"],
        ),
        (
            vec![server.clone(), format!("--token={good}"), "--node-name=isolated".to_owned()],
            vec!["\"isolated\" is taken", "--node-name", "kubectl delete node isolated"],
        ),
        (
            vec![server.clone(), format!("--token={good}"), "--node-name=kubernetes".to_owned()],
            vec!["\"kubernetes\" is taken"],
        ),
        (
            vec![server.clone(), format!("--token={good}"), "--node-ip=192.0.2.1".to_owned()],
            vec!["192.0.2.1 is a server's", "--node-ip"],
        ),
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let text = machine.refused(&args)?;
        for part in says {
            ensure!(text.contains(part), "{part:?} is not in: {text}");
        }
    }
    let mut command = machine.command(Path::new("timeout"));
    command.args(["--signal=TERM", "4"]).arg(k3s()).args(["agent", "--server=https://127.0.0.1:1"]);
    let output = command.args(["--token", &good]).output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(text.matches("Could not join yet").count() == 1, "{text}");
    Ok(())
}

fn join(cluster: &mut Cluster) -> Result<()> {
    let machine = Machine::new("agent")?;
    let images = machine.dir.join("var/lib/rancher/k3s/agent/images");
    fs::create_dir_all(&images)?;
    fs::copy("/var/lib/rancher/k3s/agent/images/busybox.tar", images.join("busybox.tar"))?;
    let agent = Agent::start(machine)?;
    with_agent(|slot| {
        *slot = Some(agent);
        ready(cluster)?;
        let annotation = "jsonpath={.metadata.annotations.k3s\\.io/internal-ip}";
        cluster.wait("k3s' annotations", PATIENCE, || {
            Ok(kubectl(&["get", "node", "agent", "-o", annotation])? == ADDRESS)
        })
    })
}

fn ready(cluster: &mut Cluster) -> Result<()> {
    cluster.wait("the agent's node to be Ready", Duration::from_secs(120), || {
        let jsonpath = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        Ok(kubectl(&["get", "node", "agent", "-o", jsonpath])? == "True")
    })
}

fn pod(name: &str, node: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, labels: {{ app: {name} }} }}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  nodeSelector: {{ kubernetes.io/hostname: {node} }}\n  \
         containers:\n  - name: main\n    image: {IMAGE}\n    command: [sh, -c, '{script}']\n"
    )
}

fn fetch(url: &str) -> Result<String> {
    kubectl(&["exec", "near", "--", "timeout", "5", "busybox", "wget", "-q", "-O-", url])
}

fn pods(cluster: &mut Cluster) -> Result<()> {
    with_agent(|_| {
        cluster.wait("the default service account", PATIENCE, || {
            Ok(kubectl(&["get", "serviceaccount", "default"]).is_ok())
        })?;
        let serve = "echo far away > /www/index.html; echo serving; exec httpd -f -p 8080 -h /www";
        apply(&pod("far", "agent", serve))?;
        apply(&pod("near", "isolated", "sleep 100000"))?;
        apply(
            "apiVersion: v1\nkind: Service\nmetadata: { name: far }\nspec:\n  \
               selector: { app: far }\n  ports: [{ port: 80, targetPort: 8080 }]\n",
        )?;
        for name in ["pod/far", "pod/near"] {
            kubectl(&["wait", name, "--for=condition=Ready", "--timeout=90s"])?;
        }
        let address = kubectl(&["get", "pod", "far", "-o", "jsonpath={.status.podIP}"])?;
        let url = format!("http://{address}:8080/");
        cluster.wait("the pod's answer", PATIENCE, || Ok(fetch(&url)? == "far away\n"))?;
        cluster.wait("the Service's answer", PATIENCE, || Ok(fetch("http://far/")? == "far away\n"))
    })
}

/// Nothing that a server sends to the agent's kubelet arrives.
fn firewall() -> Result<()> {
    let rules = "add table ip nat_ahead; add chain ip nat_ahead in { type filter hook input priority 0; }; \
                 add rule ip nat_ahead in iifname uplink tcp dport 10250 drop";
    run(Command::new("nsenter").args(["--net=/run/netns/agent", "nft", rules])).map(drop)
}

fn through_the_tunnel() -> Result<()> {
    let logs = kubectl(&["logs", "far", "--request-timeout=15s"])?;
    ensure!(logs == "serving\n", "{logs:?}");
    let text = kubectl(&["exec", "far", "--", "hostname"])?;
    ensure!(text == "far\n", "{text:?}");
    Ok(())
}

fn nat(cluster: &mut Cluster) -> Result<()> {
    let dial = || {
        let mut dial = Command::new("timeout");
        dial.args(["3", "busybox", "nc", "-w", "2", ADDRESS, "10250"]).stdin(Stdio::null());
        Ok::<_, anyhow::Error>(dial.stderr(Stdio::null()).status()?.success())
    };
    ensure!(dial()?, "the kubelet does not listen");
    firewall()?;
    ensure!(!dial()?, "the firewall lets the server in");
    with_agent(|_| {
        through_the_tunnel()?;
        let metrics = kubectl(&["get", "--raw", "/api/v1/nodes/agent/proxy/metrics"])?;
        ensure!(metrics.contains("# TYPE"), "{metrics}");
        let mut forward = crate::cluster::kubectl_command()
            .args(["port-forward", "pod/far", "18080:8080"])
            .stdout(Stdio::null())
            .spawn()?;
        let answer = cluster.wait("the forwarded port", PATIENCE, || {
            let url = "http://127.0.0.1:18080/";
            let mut fetch = Command::new("timeout");
            Ok(run(fetch.args(["5", "busybox", "wget", "-q", "-O-", url]))? == "far away\n")
        });
        forward.kill()?;
        forward.wait()?;
        answer
    })
}

fn renews(_: &mut Cluster) -> Result<()> {
    with_agent(|agent| {
        let machine = &agent.as_ref().context("an agent")?.machine;
        let script = "openssl s_client -connect 127.0.0.1:10250 </dev/null 2>/dev/null \
                      | openssl x509 -noout -serial";
        let serial = || run(machine.command(Path::new("sh")).args(["-c", script]));
        let before = serial()?;
        let said = run(machine.command(&k3s()).args(["certificate", "rotate"]))?;
        ensure!(said.contains("the agent fetches a new one"), "{said}");
        crate::cluster::wait("a certificate from the server", PATIENCE, &mut || {
            Ok(serial()? != before)
        })?;
        through_the_tunnel()
    })
}

fn api_dies(cluster: &mut Cluster) -> Result<()> {
    let found = components()?.into_iter().find(|(name, _)| name == "k3s-apiserver");
    let (_, pid) = found.context("no API server")?;
    kill(pid, Signal::KILL)?;
    with_agent(|_| {
        let begun = Instant::now();
        cluster.wait("the tunnel", PATIENCE, || through_the_tunnel().map(|()| true))?;
        ensure!(begun.elapsed() < Duration::from_secs(30), "it took {:?}", begun.elapsed());
        Ok(())
    })
}

fn server_restarts(cluster: &mut Cluster) -> Result<()> {
    cluster.stop()?;
    // The agent's machine restarts meanwhile: it starts with what it has.
    with_agent(|slot| {
        let machine = slot.take().context("no agent runs")?.stop()?;
        *slot = Some(Agent::start(machine)?);
        crate::cluster::wait("the agent to start alone", PATIENCE, &mut || {
            let log = fs::read_to_string("/var/log/k3s-agent.log")?;
            Ok(log.contains("Starting with the certificates of the last time"))
        })
    })?;
    *cluster = Cluster::start(Path::new(LOG))?;
    cluster.api_ready()?;
    with_agent(|_| {
        ready(cluster)?;
        cluster.wait("the tunnel", PATIENCE, || through_the_tunnel().map(|()| true))?;
        cluster.wait("the Service's answer", PATIENCE, || Ok(fetch("http://far/")? == "far away\n"))
    })
}

fn agent_restarts(cluster: &mut Cluster) -> Result<()> {
    let id = || {
        kubectl(&["get", "pod", "far", "-o", "jsonpath={.status.containerStatuses[0].containerID}"])
    };
    let before = id()?;
    with_agent(|slot| {
        let machine = slot.take().context("no agent runs")?.stop()?;
        cluster
            .wait("the Service's answer", PATIENCE, || Ok(fetch("http://far/")? == "far away\n"))?;
        *slot = Some(Agent::start(machine)?);
        ready(cluster)?;
        cluster.wait("the tunnel", PATIENCE, || through_the_tunnel().map(|()| true))
    })?;
    ensure!(id()? == before, "the pod was started again");
    Ok(())
}

fn restart_agent(cluster: &mut Cluster) -> Result<()> {
    with_agent(|slot| {
        let machine = slot.take().context("no agent runs")?.stop()?;
        *slot = Some(Agent::start(machine)?);
        ready(cluster)
    })
}

/// With certificates that live for seconds only, the second renewal shows that the first is in use.
fn short_lives(cluster: &mut Cluster) -> Result<()> {
    cluster.stop()?;
    *cluster = Cluster::start_in(Path::new(LOG), &[("K3S_CERTIFICATE_LIFETIME_SECONDS", "15")])?;
    cluster.api_ready()?;
    restart_agent(cluster)?;
    with_agent(|slot| {
        let dir = &slot.as_ref().context("no agent runs")?.machine.dir;
        let file = dir.join("var/lib/rancher/k3s/agent/client-kubelet.crt");
        for _ in 0..2 {
            let before = fs::read(&file)?;
            cluster.wait("a new certificate", PATIENCE, || Ok(fs::read(&file)? != before))?;
        }
        through_the_tunnel()?;
        cluster.wait("the Service's answer", PATIENCE, || Ok(fetch("http://far/")? == "far away\n"))
    })?;
    cluster.stop()?;
    *cluster = Cluster::start(Path::new(LOG))?;
    cluster.api_ready()?;
    restart_agent(cluster)
}

/// What the supervisor answers to these credentials, as curl's exit says it: 22 is a refusal.
fn let_in(credentials: &[&str]) -> Result<bool> {
    let ca = "/var/lib/rancher/k3s/server/tls/server-ca.crt";
    let url = "https://127.0.0.1:6443/v1-k3s/config";
    let mut command = Command::new("curl");
    command.args(["-sf", "--cacert", ca]).args(credentials).arg(url);
    Ok(command.stdout(Stdio::null()).status()?.success())
}

fn k3s_token(args: &[&str]) -> Result<String> {
    run(Command::new(k3s()).arg("token").args(args))
}

fn bootstrap_token(cluster: &mut Cluster) -> Result<()> {
    let secure = k3s_token(&["create", "--ttl=1h", "--description=for the test"])?;
    let (hash, token) = secure.trim().split_once("::").context("it has no hash")?;
    ensure!(self::token()?.starts_with(hash), "{hash} is not the cluster's");
    let (id, _) = token.split_once('.').context("it has no id")?;
    let bearer = format!("Authorization: Bearer {token}");
    ensure!(let_in(&["-H", &bearer])?, "the new token is refused");
    let list = k3s_token(&["list"])?;
    ensure!(list.contains(id) && list.contains("for the test"), "{list}");
    k3s_token(&["delete", id])?;
    cluster.wait("the token to be refused", PATIENCE, || Ok(!let_in(&["-H", &bearer])?))?;
    let generated = k3s_token(&["generate"])?;
    ensure!(generated.trim().len() == 23, "{generated}");
    Ok(())
}

fn rotate(_: &mut Cluster) -> Result<()> {
    let old = token()?;
    let user = |secure: &str| format!("-u{}", secure.rsplit("::").next().unwrap_or_default());
    ensure!(let_in(&[&user(&old)])?, "the token is refused");
    k3s_token(&["rotate", "--token", &old, "--new-token=another"])?;
    let new = token()?;
    ensure!(new.ends_with("::server:another"), "{new}");
    ensure!(let_in(&[&user(&new)])? && !let_in(&[&user(&old)])?, "the old token is still good");
    Ok(())
}

fn leave(cluster: &mut Cluster) -> Result<()> {
    kubectl(&["delete", "service", "far"])?;
    kubectl(&["delete", "pod", "far", "near", "--timeout=60s"])?;
    with_agent(|slot| {
        if let Some(agent) = slot.take() {
            drop(agent.stop()?);
        }
        Ok(())
    })?;
    kubectl(&["delete", "node", "agent"])?;
    cluster.wait("the node's password to go", PATIENCE, || {
        let secret = ["-n", "kube-system", "get", "secret", "agent.node-password.k3s"];
        Ok(kubectl_fails(&secret)?.contains("NotFound"))
    })
}
