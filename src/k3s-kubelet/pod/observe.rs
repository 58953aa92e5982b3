//! Reading the runtime's view of one pod.

use std::collections::BTreeMap;

use super::labels;
use super::state::{ContainerView, Life, Observed, SandboxView};
use crate::cri::Runtime;
use crate::shared::Shared;

const MESSAGE_MAX: usize = 4096;
const LOG_MESSAGE_MAX: usize = 2048;
const LOG_LINES_MAX: usize = 80;

/// Looks at everything that carries the pod's uid; what had ended before is not asked again.
pub(crate) async fn observe(
    shared: &Shared,
    uid: &str,
    before: &Observed,
) -> Result<Observed, tonic::Status> {
    let label = Some((labels::POD_UID, uid));
    let runtime: &Runtime = &shared.runtime;
    let (sandboxes, containers) =
        tokio::try_join!(runtime.list_sandboxes(label), runtime.list_containers(label))?;
    let mut out = Observed::default();
    for sandbox in sandboxes {
        shared.own(&sandbox.id, uid);
        match runtime.sandbox_status(&sandbox.id).await {
            Ok(status) => out.sandboxes.push(SandboxView::of(status)),
            Err(status) if status.code() == tonic::Code::NotFound => {}
            Err(status) => return Err(status),
        }
    }
    out.sandboxes.sort_by_key(|sandbox| std::cmp::Reverse((sandbox.attempt, sandbox.created_at)));
    let ended: BTreeMap<&str, &ContainerView> = before
        .all()
        .filter(|view| view.life == Life::Exited)
        .map(|view| (view.id.as_str(), view))
        .collect();
    for container in containers {
        shared.own(&container.id, uid);
        let view = match ended.get(container.id.as_str()) {
            Some(view) => (*view).clone(),
            None => match runtime.container_status(&container.id).await {
                Ok(status) => ContainerView::of(container.pod_sandbox_id, status),
                Err(status) if status.code() == tonic::Code::NotFound => continue,
                Err(status) => return Err(status),
            },
        };
        out.containers.entry(view.name.clone()).or_default().push(view);
    }
    for list in out.containers.values_mut() {
        list.sort_by_key(|view| std::cmp::Reverse((view.created_at, view.attempt)));
    }
    Ok(out)
}

/// What a container left as its last words: its message file, or the end of its log.
pub(crate) fn termination_message(view: &ContainerView, path: &str, fallback: bool) -> String {
    let file = view.mounts.iter().find(|mount| mount.container_path == path);
    let text = file.and_then(|mount| std::fs::read(&mount.host_path).ok()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[..text.len().min(MESSAGE_MAX)]).into_owned();
    if !text.is_empty() || !fallback || view.exit_code == 0 {
        return text;
    }
    let log = std::fs::read(&view.log_path).unwrap_or_default();
    let text = last_lines(&String::from_utf8_lossy(&log));
    let start = text.len().saturating_sub(LOG_MESSAGE_MAX);
    let start = (start..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[start..].to_owned()
}

/// What a container said last, out of its log in the CRI's format: `TIME STREAM TAG TEXT`, where
/// the tag `P` says that the line goes on.
fn last_lines(log: &str) -> String {
    let mut lines: Vec<&str> = log.lines().rev().take(LOG_LINES_MAX).collect();
    lines.reverse();
    let mut out = String::new();
    for line in lines {
        let mut fields = line.splitn(4, ' ').skip(2);
        let (Some(tag), Some(text)) = (fields.next(), fields.next()) else { continue };
        out.push_str(text);
        if tag.split(':').next() != Some("P") {
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_keep_their_line_ends() {
        let check = |log: &str, want: &str| assert_eq!(last_lines(log), want, "{log}");
        check("T stdout F a b\nT stderr F c\n", "a b\nc\n");
        check("T stdout P DONE\n", "DONE");
        check("T stdout P a\nT stdout F b\nrubbish\n", "ab\n");
    }
}
