//! The container runtime: CRI v1 over a Unix socket.
//!
//! Knows messages and methods, nothing of pods. Invariant: every call has a deadline, so a hung
//! runtime shows as an error and never as a stuck worker.

pub(crate) mod config;
pub(crate) mod events;
pub(crate) mod facts;
pub(crate) mod image;
pub(crate) mod runtime;
pub(crate) mod snapshot;
pub(crate) mod stats;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use config::{ContainerConfig, ImageSpec, LinuxContainerResources, PodSandboxConfig};
use image::*;
use runtime::*;

const DEADLINE: Duration = Duration::from_secs(120);
const PULL_DEADLINE: Duration = Duration::from_secs(3600);
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// containerd's namespace of what CRI makes; CRI itself does not look at it.
const NAMESPACE: &str = "k8s.io";

/// A connection to the runtime; clones share it.
#[derive(Clone)]
pub(crate) struct Runtime {
    channel: Channel,
}

type Result<T> = std::result::Result<T, Status>;

impl Runtime {
    /// Connects lazily: the first call opens the socket, and a restarted runtime is found again.
    pub(crate) fn new(endpoint: &str) -> anyhow::Result<Runtime> {
        let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint).to_owned();
        anyhow::ensure!(
            path.starts_with('/'),
            "container runtime endpoint {endpoint:?} is not a unix socket"
        );
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost")
            .connect_timeout(Duration::from_secs(5))
            .connect_with_connector_lazy(connector);
        Ok(Runtime { channel })
    }

    async fn call<Q, A>(&self, path: &'static str, message: Q, deadline: Duration) -> Result<A>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        grpc.ready().await.map_err(|err| Status::unavailable(err.to_string()))?;
        let mut request = Request::new(message);
        request.set_timeout(deadline);
        let namespace = MetadataValue::from_static(NAMESPACE);
        request.metadata_mut().insert("containerd-namespace", namespace);
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        let call = grpc.unary(request, PathAndQuery::from_static(path), codec);
        match tokio::time::timeout(deadline, call).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
        }
    }

    pub(crate) async fn version(&self) -> Result<VersionResponse> {
        let message = VersionRequest { version: "0.1.0".into() };
        self.call("/runtime.v1.RuntimeService/Version", message, DEADLINE).await
    }

    pub(crate) async fn status(&self) -> Result<RuntimeStatus> {
        let message = StatusRequest { verbose: false };
        let answer: StatusResponse =
            self.call("/runtime.v1.RuntimeService/Status", message, DEADLINE).await?;
        Ok(answer.status.unwrap_or_default())
    }

    /// What the runtime tells of itself beyond its status; the keys are its own.
    pub(crate) async fn info(&self) -> Result<BTreeMap<String, String>> {
        let message = StatusRequest { verbose: true };
        let answer: StatusResponse =
            self.call("/runtime.v1.RuntimeService/Status", message, DEADLINE).await?;
        Ok(answer.info)
    }

    pub(crate) async fn run_sandbox(
        &self,
        config: PodSandboxConfig,
        handler: &str,
    ) -> Result<String> {
        let message =
            RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        let answer: RunPodSandboxResponse =
            self.call("/runtime.v1.RuntimeService/RunPodSandbox", message, DEADLINE * 2).await?;
        Ok(answer.pod_sandbox_id)
    }

    pub(crate) async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let message = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let _: StopPodSandboxResponse =
            self.call("/runtime.v1.RuntimeService/StopPodSandbox", message, DEADLINE).await?;
        Ok(())
    }

    pub(crate) async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let message = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let _: RemovePodSandboxResponse =
            self.call("/runtime.v1.RuntimeService/RemovePodSandbox", message, DEADLINE).await?;
        Ok(())
    }

    pub(crate) async fn sandbox_status(&self, id: &str) -> Result<PodSandboxStatus> {
        let message = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer: PodSandboxStatusResponse =
            self.call("/runtime.v1.RuntimeService/PodSandboxStatus", message, DEADLINE).await?;
        answer.status.ok_or_else(|| Status::internal("sandbox status is empty"))
    }

    /// Sandboxes carrying the label, or all.
    pub(crate) async fn list_sandboxes(
        &self,
        label: Option<(&str, &str)>,
    ) -> Result<Vec<PodSandbox>> {
        let label_selector = label.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let filter = Some(PodSandboxFilter { label_selector, ..Default::default() });
        let message = ListPodSandboxRequest { filter };
        let answer: ListPodSandboxResponse =
            self.call("/runtime.v1.RuntimeService/ListPodSandbox", message, DEADLINE).await?;
        Ok(answer.items)
    }

    pub(crate) async fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
    ) -> Result<String> {
        let message = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let answer: CreateContainerResponse =
            self.call("/runtime.v1.RuntimeService/CreateContainer", message, DEADLINE).await?;
        Ok(answer.container_id)
    }

    pub(crate) async fn start_container(&self, id: &str) -> Result<()> {
        let message = StartContainerRequest { container_id: id.to_owned() };
        let _: StartContainerResponse =
            self.call("/runtime.v1.RuntimeService/StartContainer", message, DEADLINE).await?;
        Ok(())
    }

    /// SIGTERM, then SIGKILL after `grace_secs`; answers once the container has stopped.
    pub(crate) async fn stop_container(&self, id: &str, grace_secs: i64) -> Result<()> {
        let message = StopContainerRequest { container_id: id.to_owned(), timeout: grace_secs };
        let deadline = DEADLINE + Duration::from_secs(u64::try_from(grace_secs).unwrap_or(0));
        let _: StopContainerResponse =
            self.call("/runtime.v1.RuntimeService/StopContainer", message, deadline).await?;
        Ok(())
    }

    pub(crate) async fn remove_container(&self, id: &str) -> Result<()> {
        let message = RemoveContainerRequest { container_id: id.to_owned() };
        let _: RemoveContainerResponse =
            self.call("/runtime.v1.RuntimeService/RemoveContainer", message, DEADLINE).await?;
        Ok(())
    }

    /// Containers carrying the label, or all.
    pub(crate) async fn list_containers(
        &self,
        label: Option<(&str, &str)>,
    ) -> Result<Vec<Container>> {
        let label_selector = label.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let filter = Some(ContainerFilter { label_selector, ..Default::default() });
        let message = ListContainersRequest { filter };
        let answer: ListContainersResponse =
            self.call("/runtime.v1.RuntimeService/ListContainers", message, DEADLINE).await?;
        Ok(answer.containers)
    }

    pub(crate) async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        let message = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer: ContainerStatusResponse =
            self.call("/runtime.v1.RuntimeService/ContainerStatus", message, DEADLINE).await?;
        answer.status.ok_or_else(|| Status::internal("container status is empty"))
    }

    pub(crate) async fn update_resources(
        &self,
        id: &str,
        resources: LinuxContainerResources,
    ) -> Result<()> {
        let message = UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(resources),
            ..Default::default()
        };
        let _: UpdateContainerResourcesResponse = self
            .call("/runtime.v1.RuntimeService/UpdateContainerResources", message, DEADLINE)
            .await?;
        Ok(())
    }

    pub(crate) async fn reopen_log(&self, id: &str) -> Result<()> {
        let message = ReopenContainerLogRequest { container_id: id.to_owned() };
        let _: ReopenContainerLogResponse =
            self.call("/runtime.v1.RuntimeService/ReopenContainerLog", message, DEADLINE).await?;
        Ok(())
    }

    pub(crate) async fn exec_sync(
        &self,
        id: &str,
        cmd: &[String],
        timeout: Duration,
    ) -> Result<ExecSyncResponse> {
        let message = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: cmd.to_vec(),
            timeout: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        };
        let deadline = if timeout.is_zero() { PULL_DEADLINE } else { timeout + DEADLINE };
        self.call("/runtime.v1.RuntimeService/ExecSync", message, deadline).await
    }

    pub(crate) async fn exec(&self, message: ExecRequest) -> Result<String> {
        let answer: ExecResponse =
            self.call("/runtime.v1.RuntimeService/Exec", message, DEADLINE).await?;
        Ok(answer.url)
    }

    pub(crate) async fn attach(&self, message: AttachRequest) -> Result<String> {
        let answer: AttachResponse =
            self.call("/runtime.v1.RuntimeService/Attach", message, DEADLINE).await?;
        Ok(answer.url)
    }

    pub(crate) async fn port_forward(&self, sandbox: &str) -> Result<String> {
        let message = PortForwardRequest { pod_sandbox_id: sandbox.to_owned(), port: Vec::new() };
        let answer: PortForwardResponse =
            self.call("/runtime.v1.RuntimeService/PortForward", message, DEADLINE).await?;
        Ok(answer.url)
    }

    pub(crate) async fn container_stats(&self) -> Result<Vec<stats::ContainerStats>> {
        let message = stats::ListContainerStatsRequest::default();
        let answer: stats::ListContainerStatsResponse =
            self.call("/runtime.v1.RuntimeService/ListContainerStats", message, DEADLINE).await?;
        Ok(answer.stats)
    }

    pub(crate) async fn list_images(&self) -> Result<Vec<Image>> {
        let message = ListImagesRequest::default();
        let answer: ListImagesResponse =
            self.call("/runtime.v1.ImageService/ListImages", message, DEADLINE).await?;
        Ok(answer.images)
    }

    /// The image, if the node has it.
    pub(crate) async fn image_status(&self, image: &str) -> Result<Option<Image>> {
        let image = Some(ImageSpec { image: image.to_owned(), ..Default::default() });
        let message = ImageStatusRequest { image, verbose: false };
        let answer: ImageStatusResponse =
            self.call("/runtime.v1.ImageService/ImageStatus", message, DEADLINE).await?;
        Ok(answer.image)
    }

    pub(crate) async fn pull_image(
        &self,
        image: &str,
        auth: Option<AuthConfig>,
        sandbox_config: PodSandboxConfig,
    ) -> Result<String> {
        let message = PullImageRequest {
            image: Some(ImageSpec { image: image.to_owned(), ..Default::default() }),
            auth,
            sandbox_config: Some(sandbox_config),
        };
        let answer: PullImageResponse =
            self.call("/runtime.v1.ImageService/PullImage", message, PULL_DEADLINE).await?;
        Ok(answer.image_ref)
    }

    pub(crate) async fn remove_image(&self, image: &str) -> Result<()> {
        let image = Some(ImageSpec { image: image.to_owned(), ..Default::default() });
        let message = RemoveImageRequest { image };
        let _: RemoveImageResponse =
            self.call("/runtime.v1.ImageService/RemoveImage", message, DEADLINE).await?;
        Ok(())
    }

    /// Waits until the runtime answers, reporting the last failure after `patience`.
    pub(crate) async fn wait_ready(&self, patience: Duration) -> anyhow::Result<VersionResponse> {
        let attempt = async {
            let mut pause = Duration::from_millis(20);
            loop {
                match self.version().await {
                    Ok(version) => return version,
                    Err(err) => tracing::debug!(%err, "Runtime did not answer, retrying"),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        };
        match tokio::time::timeout(patience, attempt).await {
            Ok(version) => Ok(version),
            Err(_) => self.version().await.context("the container runtime does not answer"),
        }
    }
}

/// A runtime error as Go clients print it.
pub(crate) fn rpc_error(status: &Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}
