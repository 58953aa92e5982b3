"""What a program with Kubernetes' Python client does, and what it must see. An assertion is the test.

argv: kubeconfig, namespace (made and deleted here), image with sh and sleep.
"""

import sys
import threading

from kubernetes import client, config, dynamic, watch
from kubernetes.stream import stream

kubeconfig, namespace, image = sys.argv[1:]
config.load_kube_config(kubeconfig)
core, apps = client.CoreV1Api(), client.AppsV1Api()


def meta(name, **more):
    return client.V1ObjectMeta(name=name, **more)


core.create_namespace(client.V1Namespace(metadata=meta(namespace)))
assert client.VersionApi().get_code().minor == "36"

# Pages, selectors, patches, and a watch that sees a collection go.
names = [f"c{i}" for i in range(7)]
for i, name in enumerate(names):
    body = client.V1ConfigMap(metadata=meta(name, labels={"odd": str(i % 2)}), data={"k": "v"})
    core.create_namespaced_config_map(namespace, body)
listed, page = [], core.list_namespaced_config_map(namespace, limit=3, label_selector="odd")
while True:
    listed += [item.metadata.name for item in page.items]
    token = page.metadata._continue
    if not token:
        break
    page = core.list_namespaced_config_map(namespace, limit=3, label_selector="odd", _continue=token)
assert listed == names, listed
patched = core.patch_namespaced_config_map("c0", namespace, {"data": {"k": None, "x": "y"}})
assert patched.data == {"x": "y"}, patched.data
collect = threading.Timer(
    0.2, lambda: core.delete_collection_namespaced_config_map(namespace, label_selector="odd=1")
)
collect.start()
gone = []
version = page.metadata.resource_version
for event in watch.Watch().stream(
    core.list_namespaced_config_map, namespace, label_selector="odd=1", resource_version=version
):
    assert event["type"] == "DELETED", event
    gone.append(event["object"].metadata.name)
    if len(gone) == 3:
        break
assert sorted(gone) == ["c1", "c3", "c5"], gone

# A pod, and a command in it.
container = client.V1Container(name="c", image=image, command=["sleep", "1000"])
spec = client.V1PodSpec(termination_grace_period_seconds=0, containers=[container])
core.create_namespaced_pod(namespace, client.V1Pod(metadata=meta("p"), spec=spec))
for event in watch.Watch().stream(core.list_namespaced_pod, namespace, timeout_seconds=60):
    if event["object"].status.phase == "Running":
        break
said = stream(
    core.connect_get_namespaced_pod_exec,
    "p",
    namespace,
    command=["sh", "-c", "echo out; echo err >&2"],
    stdout=True,
    stderr=True,
    stdin=False,
    tty=False,
)
assert sorted(said.split()) == ["err", "out"], said

# The dynamic client: discovery, server-side apply, scale, and a refusal as an exception.
deployments = dynamic.DynamicClient(client.ApiClient()).resources.get(
    api_version="apps/v1", kind="Deployment"
)
labels = {"app": "d"}
template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": image}]}}
body = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "d"},
    "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
}
applied = deployments.server_side_apply(body=body, namespace=namespace, field_manager="python")
owner = applied.metadata.managedFields[0]
assert (owner.manager, owner.operation) == ("python", "Apply"), owner
apps.patch_namespaced_deployment_scale("d", namespace, {"spec": {"replicas": 1}})
assert apps.read_namespaced_deployment("d", namespace).spec.replicas == 1
try:
    deployments.server_side_apply(body=body, namespace=namespace, field_manager="another")
    raise AssertionError("two managers own one field with different values")
except client.ApiException as refusal:
    assert refusal.status == 409 and "conflict with" in str(refusal.body), refusal

core.delete_namespace(namespace)
print("ok")
