//! What a running runtime tells of its own configuration, for those who prepare a node around it.
//!
//! Invariant: a runtime that tells nothing is no error; its facts are then simply absent.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::Deserialize;

use super::Runtime;

const SNAPSHOTTER_DEFAULT: &str = "overlayfs";

/// The parts of a runtime's configuration that concern the pod network and images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeFacts {
    /// Folder of the CNI plugins.
    pub cni_bin: Option<PathBuf>,
    /// Folder of the CNI configuration.
    pub cni_conf: Option<PathBuf>,
    /// The image of every pod's sandbox.
    pub sandbox_image: Option<String>,
    /// Whether it leaves control groups to systemd.
    pub systemd_cgroup: bool,
    snapshotter: Option<String>,
}

impl RuntimeFacts {
    /// Asks the CRI runtime at `endpoint` (`unix:///path`), as `crictl info` does.
    ///
    /// # Errors
    /// The runtime does not answer.
    pub async fn ask(endpoint: &str) -> anyhow::Result<Self> {
        let info = Runtime::new(endpoint)?.info().await;
        info.map(|info| Self::parse(&info))
            .map_err(|status| anyhow::anyhow!("{}", status.message()))
            .with_context(|| format!("asking the container runtime at {endpoint}"))
    }

    /// What holds the files of images.
    pub(crate) fn snapshotter(self) -> String {
        self.snapshotter.unwrap_or_else(|| SNAPSHOTTER_DEFAULT.to_owned())
    }

    /// containerd's `config` is its CRI plugin's configuration as JSON.
    pub(crate) fn parse(info: &BTreeMap<String, String>) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Config {
            cni: Cni,
            sandbox_image: Option<String>,
            containerd: Containerd,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Cni {
            bin_dir: Option<PathBuf>,
            bin_dirs: Option<Vec<PathBuf>>,
            conf_dir: Option<PathBuf>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Containerd {
            snapshotter: Option<String>,
            runtimes: BTreeMap<String, Handler>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Handler {
            options: Option<Options>,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        struct Options {
            systemd_cgroup: bool,
        }
        let config = info.get("config").and_then(|text| serde_json::from_str::<Config>(text).ok());
        let Config { cni, sandbox_image, containerd } = config.unwrap_or_default();
        let given = |path: &PathBuf| !path.as_os_str().is_empty();
        let mut bins = cni.bin_dirs.into_iter().flatten().chain(cni.bin_dir).filter(given);
        let handlers = containerd.runtimes.into_values();
        Self {
            systemd_cgroup: handlers
                .filter_map(|handler| handler.options)
                .any(|options| options.systemd_cgroup),
            cni_bin: bins.next(),
            cni_conf: cni.conf_dir.filter(given),
            sandbox_image: sandbox_image.filter(|name| !name.is_empty()),
            snapshotter: containerd.snapshotter.filter(|name| !name.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &str, bin: &str, conf: &str, image: &str) {
        let info = BTreeMap::from([("config".to_owned(), config.to_owned())]);
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let expected = RuntimeFacts {
            cni_bin: some(bin).map(PathBuf::from),
            cni_conf: some(conf).map(PathBuf::from),
            sandbox_image: some(image),
            systemd_cgroup: config.contains("true"),
            snapshotter: config.contains("stargz").then(|| "stargz".to_owned()),
        };
        assert_eq!(RuntimeFacts::parse(&info), expected, "{config}");
    }

    #[test]
    fn configurations_of_all_generations_are_understood() {
        check(
            r#"{"cni":{"binDir":"/opt/cni/bin","confDir":"/etc/cni/net.d"},"sandboxImage":"pause:1"}"#,
            "/opt/cni/bin",
            "/etc/cni/net.d",
            "pause:1",
        );
        check(
            r#"{"cni":{"binDir":"","binDirs":["/b"],"confDir":"/c"},"sandboxImage":""}"#,
            "/b",
            "/c",
            "",
        );
        check(
            r#"{"containerd":{"runtimes":{"runc":{"options":{"SystemdCgroup":true}}}}}"#,
            "",
            "",
            "",
        );
        check(r#"{"containerd":{"snapshotter":"stargz"}}"#, "", "", "");
        check(r#"{"sandboxImage":"pause:1"}"#, "", "", "pause:1");
        check("not JSON", "", "", "");
    }
}
