//! `postStart` and `preStop`: exec, httpGet, sleep.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use super::http_get;
use crate::cri::{Runtime, rpc_error};

/// Runs the handler to its end or until `limit`.
pub(crate) async fn run(
    runtime: &Runtime,
    handler: &LifecycleHandler,
    container: &Container,
    id: &str,
    pod_ip: &str,
    limit: Duration,
) -> Result<(), String> {
    match tokio::time::timeout(limit, perform(runtime, handler, container, id, pod_ip)).await {
        Ok(result) => result,
        Err(_) => Err("container hook did not complete within its time".to_owned()),
    }
}

async fn perform(
    runtime: &Runtime,
    handler: &LifecycleHandler,
    container: &Container,
    id: &str,
    pod_ip: &str,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let answer =
            runtime.exec_sync(id, &command, Duration::ZERO).await.map_err(|err| rpc_error(&err))?;
        return match answer.exit_code {
            0 => Ok(()),
            code => Err(format!(
                "Exec lifecycle hook ({command:?}) for Container \"{}\" failed - error: command '{}' exited with {code}: {}, message: {:?}",
                container.name,
                command.join(" "),
                String::from_utf8_lossy(&answer.stderr),
                String::from_utf8_lossy(&answer.stdout),
            )),
        };
    }
    if let Some(action) = &handler.http_get {
        // An HTTP hook is over when it was answered; what it answered does not matter.
        return http_get::get(action, container, pod_ip, Duration::from_secs(3600)).await.map(drop);
    }
    if let Some(sleep) = &handler.sleep {
        let secs = u64::try_from(sleep.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(secs)).await;
        return Ok(());
    }
    Err("invalid handler: none of exec, httpGet and sleep is given".to_owned())
}
