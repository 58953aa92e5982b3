# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_k3s_global_optspecs
    string join \n h/help V/version
end

function __fish_k3s_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_k3s_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_k3s_using_subcommand
    set -l cmd (__fish_k3s_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c k3s -n "__fish_k3s_needs_command" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_needs_command" -s V -l version -d 'Print version'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "status" -d 'Show the components of this node and their state'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "kubectl" -d 'Run the system\'s kubectl, or a smaller one of our own, on this cluster'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "crictl" -d 'Run the system\'s crictl on this node\'s containerd'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "ctr" -d 'Run the system\'s ctr on this node\'s containerd'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "token" -d 'Manage the tokens that nodes join with'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "certificate" -d 'Show and renew certificates'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "secrets-encrypt" -d 'Manage the encryption of Secrets in the datastore'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "etcd-snapshot" -d 'Manage snapshots of the datastore'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "check-config" -d 'Check that this machine can run k3s'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "completion" -d 'Print a completion script'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "server" -d 'Run a server: control plane and, unless disabled, a node'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "agent" -d 'Run a node that joins the cluster of a server'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "store" -d 'Datastore: the etcd v3 API over SQLite'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "apiserver" -d 'The Kubernetes API'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "controller-manager" -d 'Controllers of the cluster'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "scheduler" -d 'Places pods on nodes'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "kubelet" -d 'Node agent: runs the pods of this node'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "flannel" -d 'Pod network of this node'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "proxy" -d 'Services in nftables'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "dns" -d 'Cluster DNS'
complete -c k3s -n "__fish_k3s_using_subcommand status" -l json -d 'Print JSON instead of a table' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand status" -s w -l watch -d 'Show it again every second' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand status" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand token; and not __fish_seen_subcommand_from create delete generate list rotate" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand token; and not __fish_seen_subcommand_from create delete generate list rotate" -f -a "create" -d 'Create a bootstrap token on the server'
complete -c k3s -n "__fish_k3s_using_subcommand token; and not __fish_seen_subcommand_from create delete generate list rotate" -f -a "delete" -d 'Delete bootstrap tokens on the server'
complete -c k3s -n "__fish_k3s_using_subcommand token; and not __fish_seen_subcommand_from create delete generate list rotate" -f -a "generate" -d 'Print a random bootstrap token; the server does not learn of it'
complete -c k3s -n "__fish_k3s_using_subcommand token; and not __fish_seen_subcommand_from create delete generate list rotate" -f -a "list" -d 'List the bootstrap tokens on the server'
complete -c k3s -n "__fish_k3s_using_subcommand token; and not __fish_seen_subcommand_from create delete generate list rotate" -f -a "rotate" -d 'Replace the server\'s token'
complete -c k3s -n "__fish_k3s_using_subcommand token; and __fish_seen_subcommand_from create" -s d -l data-dir -d 'Folder of all state' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand token; and __fish_seen_subcommand_from create" -l kubeconfig -d 'Kubeconfig to reach the API with; the administrator\'s by default' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand token; and __fish_seen_subcommand_from create" -l description -d 'What the token is for, in a person\'s words' -r
complete -c k3s -n "__fish_k3s_using_subcommand token; and __fish_seen_subcommand_from create" -l groups -d 'Groups that the token authenticates as' -r
complete -c k3s -n "__fish_k3s_using_subcommand token; and __fish_seen_subcommand_from create" -l ttl -d 'How long the token is valid (`2h`, `30m`); 0 for ever' -r
complete -c k3s -n "__fish_k3s_using_subcommand token; and __fish_seen_subcommand_from create" -l usages -d 'What the token may be used for' -r
complete -c k3s -n "__fish_k3s_using_subcommand token; and __fish_seen_subcommand_from create" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand token; and __fish_seen_subcommand_from delete" -s d -l data-dir -d 'Folder of all state' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand token; and __fish_seen_subcommand_from delete" -l kubeconfig -d 'Kubeconfig to reach the API with; the administrator\'s by default' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand token; and __fish_seen_subcommand_from delete" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand token; and __fish_seen_subcommand_from generate" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand token; and __fish_seen_subcommand_from list" -s d -l data-dir -d 'Folder of all state' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand token; and __fish_seen_subcommand_from list" -l kubeconfig -d 'Kubeconfig to reach the API with; the administrator\'s by default' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand token; and __fish_seen_subcommand_from list" -s o -l output -d 'Format of the list' -r -f -a "text\t''
json\t''"
complete -c k3s -n "__fish_k3s_using_subcommand token; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand token; and __fish_seen_subcommand_from rotate" -s d -l data-dir -d 'Folder of all state' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand token; and __fish_seen_subcommand_from rotate" -l kubeconfig -d 'Kubeconfig to reach the API with; the administrator\'s by default' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand token; and __fish_seen_subcommand_from rotate" -s t -l token -d 'The token in force' -r
complete -c k3s -n "__fish_k3s_using_subcommand token; and __fish_seen_subcommand_from rotate" -l new-token -d 'The token to be in force; a random one by default' -r
complete -c k3s -n "__fish_k3s_using_subcommand token; and __fish_seen_subcommand_from rotate" -s s -l server -d 'Server to ask' -r
complete -c k3s -n "__fish_k3s_using_subcommand token; and __fish_seen_subcommand_from rotate" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand certificate; and not __fish_seen_subcommand_from check rotate rotate-ca" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand certificate; and not __fish_seen_subcommand_from check rotate rotate-ca" -f -a "check" -d 'Show what each certificate of this node is for and when it ends'
complete -c k3s -n "__fish_k3s_using_subcommand certificate; and not __fish_seen_subcommand_from check rotate rotate-ca" -f -a "rotate" -d 'Give components new keys and certificates; a server that runs goes on with them at once'
complete -c k3s -n "__fish_k3s_using_subcommand certificate; and not __fish_seen_subcommand_from check rotate rotate-ca" -f -a "rotate-ca" -d 'Put new certificate authorities in force'
complete -c k3s -n "__fish_k3s_using_subcommand certificate; and __fish_seen_subcommand_from check" -s d -l data-dir -d 'Folder of all state' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand certificate; and __fish_seen_subcommand_from check" -l kubeconfig -d 'Kubeconfig to reach the API with; the administrator\'s by default' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand certificate; and __fish_seen_subcommand_from check" -s s -l service -d 'Services to look at, comma-separated; all by default' -r
complete -c k3s -n "__fish_k3s_using_subcommand certificate; and __fish_seen_subcommand_from check" -s o -l output -d 'Format of the answer' -r -f -a "text\t''
table\t''"
complete -c k3s -n "__fish_k3s_using_subcommand certificate; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand certificate; and __fish_seen_subcommand_from rotate" -s d -l data-dir -d 'Folder of all state' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand certificate; and __fish_seen_subcommand_from rotate" -l kubeconfig -d 'Kubeconfig to reach the API with; the administrator\'s by default' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand certificate; and __fish_seen_subcommand_from rotate" -s s -l service -d 'Services whose certificates to replace, comma-separated; all by default' -r
complete -c k3s -n "__fish_k3s_using_subcommand certificate; and __fish_seen_subcommand_from rotate" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand certificate; and __fish_seen_subcommand_from rotate-ca" -s d -l data-dir -d 'Folder of all state' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand certificate; and __fish_seen_subcommand_from rotate-ca" -l kubeconfig -d 'Kubeconfig to reach the API with; the administrator\'s by default' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand certificate; and __fish_seen_subcommand_from rotate-ca" -l path -d 'Folder with the new authorities, laid out as the data folder\'s `server`' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand certificate; and __fish_seen_subcommand_from rotate-ca" -l force -d 'Also accept authorities that do not share a root with those in force: every node and kubeconfig must then be made anew'
complete -c k3s -n "__fish_k3s_using_subcommand certificate; and __fish_seen_subcommand_from rotate-ca" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand secrets-encrypt" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand etcd-snapshot" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand check-config" -s d -l data-dir -d 'Folder of all state: its disk is measured' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand check-config" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand completion" -s i -d 'Have the shell\'s start-up file read it, for bash and zsh' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand completion" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand server" -s c -l config -d 'Configuration file; `FILE.d/*.yaml` is read after it' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand server" -l debug -d 'Log more' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -s v -d 'Upstream\'s number for how much is logged; from 4 on as `--debug`' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -s d -l data-dir -d 'Folder of all state' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand server" -l bind-address -d 'Address that the API server, or the kubelet of an agent, listens on' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -s s -l server -d 'Server to join: `https://host:6443`' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -s t -l token -d 'Shared secret to join the cluster' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l token-file -d 'File with the shared secret' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand server" -l cluster-secret -d 'The former name of `--token`' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l node-name -d 'Name of the node; the lower-case host name by default' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l with-node-id -d 'Add the machine\'s id, eight digits kept in /etc/rancher/node/id, to the node\'s name' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l node-label -d 'Labels that the node registers with, `key=value`' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l node-taint -d 'Taints that the node registers with, `key=value:effect`' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -s i -l node-ip -d 'Address of the node; that of the default route by default' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l flannel-iface -d 'Interface of the pod network; that of the node\'s address by default' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l lb-server-port -d 'Port of the agent\'s load balancer in front of the servers' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l disable-apiserver-lb -d 'Go straight to the server that was given, without a load balancer' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l container-runtime-endpoint -d 'Socket of a container runtime that already runs; none is started then' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l pause-image -d 'Image that holds the namespaces of a pod; a built-in one by default' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l snapshotter -d 'containerd\'s snapshotter' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l nonroot-devices -d 'Give devices in pods to the user that the pod runs as' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l resolv-conf -d 'resolv.conf for pods that use the node\'s DNS' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand server" -l kubelet-arg -d 'Flags for the kubelet, `key=value`' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l kube-proxy-arg -d 'Flags for the proxy, `key=value`' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l disable-kube-proxy -d 'Do not run the proxy' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l https-listen-port -d 'Port that the API server listens on' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l advertise-address -d 'Address that the API server advertises to the cluster' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l tls-san -d 'Further host names and addresses for the serving certificate' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l cluster-cidr -d 'Network of the pods' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l service-cidr -d 'Network of the Services' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l service-node-port-range -d 'Ports for Services of type NodePort' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l cluster-dns -d 'Address of the cluster DNS; the tenth of the service network by default' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l cluster-domain -d 'Domain of the cluster DNS' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l flannel-backend -d 'Backend of the pod network: none, vxlan or host-gw' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l no-flannel -d 'The former way to say `--flannel-backend=none`' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -s o -l write-kubeconfig -d 'Write the administrator\'s kubeconfig to this file' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand server" -l write-kubeconfig-mode -d 'Mode of the administrator\'s kubeconfig' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l write-kubeconfig-group -d 'Group of the administrator\'s kubeconfig' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l agent-token -d 'Token that agents join with in place of the server\'s' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l agent-token-file -d 'File with the token that agents join with' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand server" -l kube-apiserver-arg -d 'Flags for the API server, `key=value`' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l kube-controller-manager-arg -d 'Flags for the controller manager, `key=value`' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l kube-scheduler-arg -d 'Flags for the scheduler, `key=value`' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l datastore-endpoint -d 'An etcd to use in place of the built-in store: `http://host:2379` or `unix:///path`' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l default-local-storage-path -d 'Folder for local volumes on every node; `storage` in the data folder by default' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand server" -l disable -d 'Parts not to run: coredns, local-storage or the name of a manifest; traefik and the like are not there in any case' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l disable-scheduler -d 'Do not run the scheduler' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l disable-controller-manager -d 'Do not run the controller manager' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l disable-agent -d 'Do not run a node on this server' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l vmodule -d 'Not available yet: levels are per component: K3S_LOG_LEVEL' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -s l -l log -d 'Not available yet: logs go to stderr or the journal; redirect them there' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l alsologtostderr -d 'Not available yet: logs go to stderr or the journal; redirect them there' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l cluster-init -d 'Not available yet: there is no embedded etcd; a server keeps its data in SQLite' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l cluster-reset -d 'Not available yet: there is no embedded etcd; a server keeps its data in SQLite' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l cluster-reset-restore-path -d 'Not available yet: there is no embedded etcd; a server keeps its data in SQLite' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l datastore-cafile -d 'Not available yet: the datastore\'s own TLS settings are not there yet; use a local endpoint' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l datastore-certfile -d 'Not available yet: the datastore\'s own TLS settings are not there yet; use a local endpoint' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l datastore-keyfile -d 'Not available yet: the datastore\'s own TLS settings are not there yet; use a local endpoint' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l etcd-arg -d 'Not available yet: there is no embedded etcd; a server keeps its data in SQLite' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l etcd-expose-metrics -d 'Not available yet: there is no embedded etcd; a server keeps its data in SQLite' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l disable-apiserver -d 'Not available yet: servers without an API need several servers, which are not there yet' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l disable-etcd -d 'Not available yet: there is no embedded etcd; a server keeps its data in SQLite' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l etcd-disable-snapshots -d 'Not available yet: no snapshots are taken; back up server/db with the server stopped' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l etcd-snapshot-schedule-cron -d 'Not available yet: no snapshots are taken; back up server/db with the server stopped' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l etcd-snapshot-name -d 'Not available yet: no snapshots are taken; back up server/db with the server stopped' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l etcd-snapshot-retention -d 'Not available yet: no snapshots are taken; back up server/db with the server stopped' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l etcd-snapshot-dir -d 'Not available yet: no snapshots are taken; back up server/db with the server stopped' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l etcd-snapshot-compress -d 'Not available yet: no snapshots are taken; back up server/db with the server stopped' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l etcd-s3 -d 'Not available yet: snapshots to S3 are not there yet; copy server/db with the server stopped' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l etcd-s3-endpoint -d 'Not available yet: snapshots to S3 are not there yet; copy server/db with the server stopped' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l etcd-s3-endpoint-ca -d 'Not available yet: snapshots to S3 are not there yet; copy server/db with the server stopped' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l etcd-s3-skip-ssl-verify -d 'Not available yet: snapshots to S3 are not there yet; copy server/db with the server stopped' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l etcd-s3-access-key -d 'Not available yet: snapshots to S3 are not there yet; copy server/db with the server stopped' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l etcd-s3-secret-key -d 'Not available yet: snapshots to S3 are not there yet; copy server/db with the server stopped' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l etcd-s3-bucket -d 'Not available yet: snapshots to S3 are not there yet; copy server/db with the server stopped' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l etcd-s3-region -d 'Not available yet: snapshots to S3 are not there yet; copy server/db with the server stopped' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l etcd-s3-folder -d 'Not available yet: snapshots to S3 are not there yet; copy server/db with the server stopped' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l etcd-s3-proxy -d 'Not available yet: snapshots to S3 are not there yet; copy server/db with the server stopped' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l etcd-s3-config-secret -d 'Not available yet: snapshots to S3 are not there yet; copy server/db with the server stopped' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l etcd-s3-insecure -d 'Not available yet: snapshots to S3 are not there yet; copy server/db with the server stopped' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l etcd-s3-timeout -d 'Not available yet: snapshots to S3 are not there yet; copy server/db with the server stopped' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l advertise-port -d 'Not available yet: the API is advertised with --https-listen-port' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l tls-san-security -d 'Not available yet: names are only ever added with --tls-san' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l egress-selector-mode -d 'Not available yet: the API server reaches kubelets through their tunnels, and pods directly' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l supervisor-metrics -d 'Not available yet: each component serves its own metrics' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l enable-pprof -d 'Not available yet: there is no Go runtime to profile; use perf' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l vpn-auth -d 'Not available yet: VPN integration is not there yet' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l vpn-auth-file -d 'Not available yet: VPN integration is not there yet' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l flannel-ipv6-masq -d 'Not available yet: IPv6 is not there yet' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l flannel-external-ip -d 'Not available yet: the pod network runs between the nodes\' own addresses' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l flannel-conf -d 'Not available yet: the pod network is set up by --flannel-backend and --flannel-iface only' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l flannel-cni-conf -d 'Not available yet: the pod network is set up by --flannel-backend and --flannel-iface only' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l servicelb-namespace -d 'Not available yet: the service load balancer has no pods' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l helm-job-image -d 'Not available yet: there is no Helm controller; install charts with helm' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l helm-controller-arg -d 'Not available yet: there is no Helm controller; install charts with helm' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l disable-helm-controller -d 'Not available yet: there is no Helm controller; install charts with helm' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l kube-cloud-controller-manager-arg -d 'Not available yet: there is no cloud controller; nodes need none to become ready' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l disable-cloud-controller -d 'Not available yet: there is no cloud controller; nodes need none to become ready' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l disable-network-policy -d 'Not available yet: nothing acts on network policies' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l system-default-registry -d 'Not available yet: no system image is pulled' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l embedded-registry -d 'Not available yet: images are not shared between nodes' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l secrets-encryption -d 'Not available yet: Secrets are stored as they are; encrypt the disk' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l secrets-encryption-provider -d 'Not available yet: Secrets are stored as they are; encrypt the disk' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l selinux -d 'Not available yet: SELinux labels are not set yet' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l protect-kernel-defaults -d 'Not available yet: the kubelet sets the kernel\'s settings it needs' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l rootless -d 'Not available yet: k3s needs root' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l node-external-ip -d 'Not available yet: nodes have one address, --node-ip' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l node-internal-dns -d 'Not available yet: nodes have one address, --node-ip' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l node-external-dns -d 'Not available yet: nodes have one address, --node-ip' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l image-service-endpoint -d 'Not available yet: images come from --container-runtime-endpoint' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l default-runtime -d 'Not available yet: pods run with runc' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l docker -d 'Not available yet: containerd runs the pods' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l disable-default-registry-endpoint -d 'Not available yet: registry mirrors are not there yet; images are pulled as named' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -l private-registry -d 'Not available yet: registry mirrors are not there yet; images are pulled as named' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l airgap-extra-registry -d 'Not available yet: registry mirrors are not there yet; images are pulled as named' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l image-credential-provider-bin-dir -d 'Not available yet: use imagePullSecrets' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l image-credential-provider-config -d 'Not available yet: use imagePullSecrets' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l prefer-bundled-bin -d 'Not available yet: nothing is bundled; the system\'s programs are used' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand agent" -s c -l config -d 'Configuration file; `FILE.d/*.yaml` is read after it' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l debug -d 'Log more' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand agent" -s v -d 'Upstream\'s number for how much is logged; from 4 on as `--debug`' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -s d -l data-dir -d 'Folder of all state' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l bind-address -d 'Address that the API server, or the kubelet of an agent, listens on' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -s s -l server -d 'Server to join: `https://host:6443`' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -s t -l token -d 'Shared secret to join the cluster' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l token-file -d 'File with the shared secret' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l cluster-secret -d 'The former name of `--token`' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l node-name -d 'Name of the node; the lower-case host name by default' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l with-node-id -d 'Add the machine\'s id, eight digits kept in /etc/rancher/node/id, to the node\'s name' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l node-label -d 'Labels that the node registers with, `key=value`' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l node-taint -d 'Taints that the node registers with, `key=value:effect`' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -s i -l node-ip -d 'Address of the node; that of the default route by default' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l flannel-iface -d 'Interface of the pod network; that of the node\'s address by default' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l lb-server-port -d 'Port of the agent\'s load balancer in front of the servers' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l disable-apiserver-lb -d 'Go straight to the server that was given, without a load balancer' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l container-runtime-endpoint -d 'Socket of a container runtime that already runs; none is started then' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l pause-image -d 'Image that holds the namespaces of a pod; a built-in one by default' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l snapshotter -d 'containerd\'s snapshotter' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l nonroot-devices -d 'Give devices in pods to the user that the pod runs as' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l resolv-conf -d 'resolv.conf for pods that use the node\'s DNS' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l kubelet-arg -d 'Flags for the kubelet, `key=value`' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l kube-proxy-arg -d 'Flags for the proxy, `key=value`' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l disable-kube-proxy -d 'Do not run the proxy' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l vmodule -d 'Not available yet: levels are per component: K3S_LOG_LEVEL' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -s l -l log -d 'Not available yet: logs go to stderr or the journal; redirect them there' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l alsologtostderr -d 'Not available yet: logs go to stderr or the journal; redirect them there' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l enable-pprof -d 'Not available yet: there is no Go runtime to profile; use perf' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l vpn-auth -d 'Not available yet: VPN integration is not there yet' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l vpn-auth-file -d 'Not available yet: VPN integration is not there yet' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l flannel-conf -d 'Not available yet: the pod network is set up by --flannel-backend and --flannel-iface only' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l flannel-cni-conf -d 'Not available yet: the pod network is set up by --flannel-backend and --flannel-iface only' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l selinux -d 'Not available yet: SELinux labels are not set yet' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l protect-kernel-defaults -d 'Not available yet: the kubelet sets the kernel\'s settings it needs' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l rootless -d 'Not available yet: k3s needs root' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l node-external-ip -d 'Not available yet: nodes have one address, --node-ip' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l node-internal-dns -d 'Not available yet: nodes have one address, --node-ip' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l node-external-dns -d 'Not available yet: nodes have one address, --node-ip' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l image-service-endpoint -d 'Not available yet: images come from --container-runtime-endpoint' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l default-runtime -d 'Not available yet: pods run with runc' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l docker -d 'Not available yet: containerd runs the pods' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l disable-default-registry-endpoint -d 'Not available yet: registry mirrors are not there yet; images are pulled as named' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l private-registry -d 'Not available yet: registry mirrors are not there yet; images are pulled as named' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l airgap-extra-registry -d 'Not available yet: registry mirrors are not there yet; images are pulled as named' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l image-credential-provider-bin-dir -d 'Not available yet: use imagePullSecrets' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l image-credential-provider-config -d 'Not available yet: use imagePullSecrets' -r
complete -c k3s -n "__fish_k3s_using_subcommand agent" -l prefer-bundled-bin -d 'Not available yet: nothing is bundled; the system\'s programs are used' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand agent" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand store" -l db -d 'The database file' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand store" -l listen -d 'Where to listen when no socket was passed' -r
complete -c k3s -n "__fish_k3s_using_subcommand store" -l listen-client-urls -d 'More endpoints to listen on, as etcd names them' -r
complete -c k3s -n "__fish_k3s_using_subcommand store" -l watch-progress-notify-interval -d 'Seconds without events after which a watch that asked for it is told the revision' -r
complete -c k3s -n "__fish_k3s_using_subcommand store" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand store" -s V -l version -d 'Print version'
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l etcd-servers -d 'Servers of the store (`unix:///path`, `http://host:port`, `https://host:port`)' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l etcd-cafile -d 'CA for the store\'s certificate' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l etcd-certfile -d 'Client certificate towards the store' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l etcd-keyfile -d 'Client key towards the store' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l etcd-prefix -d 'Prefix of all keys in the store (only the default is supported)' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l etcd-compaction-interval -d 'How often old revisions of the store are given up, in Go\'s notation (0 for never)' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l secure-port -d 'Port of HTTPS' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l bind-address -d 'Address of HTTPS' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l advertise-address -d 'Address that members of the cluster reach this server at' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l client-ca-file -d 'CA bundle for client certificates' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l tls-cert-file -d 'Server certificate, with its chain' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l tls-private-key-file -d 'Key of the server certificate' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l service-cluster-ip-range -d 'Cluster IPs of Services, one range per address family' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l service-node-port-range -d 'Node ports of Services, `from-to`' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l service-account-issuer -d 'Issuers of service account tokens, the first one signs' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l service-account-key-file -d 'Public (or private) keys that verify service account tokens' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l service-account-signing-key-file -d 'Private key that signs service account tokens' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l service-account-max-token-expiration -d 'Longest lifetime of a requested token, in Go\'s notation (0 for no limit)' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l service-account-extend-token-expiration -d 'Stretch the lifetime of the tokens that pods mount' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l api-audiences -d 'Audiences of this API, the first issuer when empty' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l kubelet-client-certificate -d 'Client certificate towards kubelets' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l kubelet-client-key -d 'Client key towards kubelets' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l kubelet-certificate-authority -d 'CA for kubelets\' certificates' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l kubelet-preferred-address-types -d 'Node address types for reaching kubelets, in order' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l authorization-mode -d 'Authorizers in order: AlwaysAllow, AlwaysDeny, Node, RBAC' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l enable-admission-plugins -d 'Admission plugins besides the default ones' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l disable-admission-plugins -d 'Admission plugins to leave out' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l enable-bootstrap-token-auth -d 'Accept bootstrap tokens (secrets of kube-system)' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l anonymous-auth -d 'Serve requests without credentials as system:anonymous' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l allow-privileged -d 'Allow privileged containers' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l requestheader-client-ca-file -d 'CA for the front proxy\'s client certificate' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l requestheader-allowed-names -d 'Common names that the front proxy may have, any when empty' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l requestheader-username-headers -d 'Headers with the user\'s name' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l requestheader-group-headers -d 'Headers with the user\'s groups' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l requestheader-extra-headers-prefix -d 'Prefixes of headers with extra information' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l proxy-client-cert-file -d 'Client certificate towards aggregated API servers' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l proxy-client-key-file -d 'Client key towards aggregated API servers' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l audit-policy-file -d 'Audit policy: what is logged about which requests' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l audit-log-path -d 'File of the audit log, `-` for standard output' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l audit-log-maxage -d 'Days that audit logs set aside are kept, 0 for ever' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l audit-log-maxbackup -d 'Audit logs set aside that are kept, 0 for all' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l audit-log-maxsize -d 'Size in MiB at which the audit log is set aside' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l audit-log-format -d 'Format of the audit log: json or legacy' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l runtime-config -d 'API versions to switch on or off: `api/all=true`, `resource.k8s.io/v1beta1=true`' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l event-ttl -d 'Lifetime of Events, in Go\'s notation' -r
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l token-auth-file -d 'Static tokens: `token,user,uid,"group,group"` a line' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l basic-auth-file -d 'k3s\' node passwords and tokens: `password,user,uid,"group,group"` a line' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -l supervisor-dir -d 'k3s\' folder of the server (`tls`, `cred`, `etc`): agents may join with what is in it' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand apiserver" -s V -l version -d 'Print version'
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l kubeconfig -d 'Kubeconfig with the identity to use' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l service-account-private-key-file -d 'Private key that signs service account tokens' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l legacy-service-account-token-clean-up-period -d 'How long a token that was made unasked may be unused before it is marked, and then deleted' -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l root-ca-file -d 'CA certificate published in every namespace' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l cluster-cidr -d 'Address range of pods' -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l service-cluster-ip-range -d 'Address range of services' -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l allocate-node-cidrs -d 'Whether to give nodes their pod range' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l node-cidr-mask-size -d 'Prefix length of a node\'s pod range; 24 for IPv4 and 64 for IPv6 when not given' -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l node-cidr-mask-size-ipv4 -d 'Prefix length of a node\'s IPv4 range, instead of the common one' -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l node-cidr-mask-size-ipv6 -d 'Prefix length of a node\'s IPv6 range, instead of the common one' -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l cluster-signing-cert-file -d 'CA certificate that signs certificates for certificate signing requests' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l cluster-signing-key-file -d 'Private key of that CA' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l cluster-signing-kube-apiserver-client-cert-file -d 'CA certificate of the signer kubernetes.io/kube-apiserver-client, instead of the common one' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l cluster-signing-kube-apiserver-client-key-file -d 'Private key of that CA' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l cluster-signing-kubelet-client-cert-file -d 'CA certificate of the signer kubernetes.io/kube-apiserver-client-kubelet, instead of the common one' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l cluster-signing-kubelet-client-key-file -d 'Private key of that CA' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l cluster-signing-kubelet-serving-cert-file -d 'CA certificate of the signer kubernetes.io/kubelet-serving, instead of the common one' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l cluster-signing-kubelet-serving-key-file -d 'Private key of that CA' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l cluster-signing-legacy-unknown-cert-file -d 'CA certificate of the signer kubernetes.io/legacy-unknown, instead of the common one' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l cluster-signing-legacy-unknown-key-file -d 'Private key of that CA' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l cluster-signing-duration -d 'How long signed certificates are valid at most' -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l controllers -d 'Controllers to run: \'*\' all, \'foo\' that one, \'-foo\' not that one' -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l cluster-dns -d 'Cluster DNS address; empty for no cluster DNS Service' -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l cluster-domain -d 'Cluster domain' -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l manifests-dir -d 'Folder of manifests to apply; none without' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l manifests-kubeconfig -d 'Kubeconfig to apply manifests with, instead of the common one' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l disabled-addons -d 'Manifests that are deleted, with their objects, instead of applied' -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l node-monitor-grace-period -d 'How long a node may be silent before it is called unhealthy' -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l terminated-pod-gc-threshold -d 'Terminated pods to keep before the oldest are deleted' -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l bind-address -d 'Address to serve health and metrics on' -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l secure-port -d 'Port to serve health and metrics on' -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l tls-cert-file -d 'Certificate for the health and metrics port; plain HTTP without' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l tls-private-key-file -d 'Private key for the health and metrics port' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l allow-metric-labels -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l allow-metric-labels-manifest -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l attach-detach-reconcile-sync-period -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l authentication-kubeconfig -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l authentication-skip-lookup -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l authentication-token-webhook-cache-ttl -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l authentication-tolerate-lookup-failure -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l authorization-always-allow-paths -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l authorization-kubeconfig -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l authorization-webhook-cache-authorized-ttl -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l authorization-webhook-cache-unauthorized-ttl -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l cert-dir -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l cidr-allocator-type -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l client-ca-file -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l cloud-config -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l cloud-provider -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l cluster-name -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l concurrent-cron-job-syncs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l concurrent-daemonset-syncs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l concurrent-deployment-syncs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l concurrent-device-taint-eviction-syncs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l concurrent-endpoint-syncs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l concurrent-ephemeralvolume-syncs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l concurrent-gc-syncs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l concurrent-horizontal-pod-autoscaler-syncs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l concurrent-job-syncs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l concurrent-namespace-syncs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l concurrent-rc-syncs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l concurrent-replicaset-syncs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l concurrent-resource-quota-syncs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l concurrent-resourceclaim-syncs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l concurrent-service-endpoint-syncs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l concurrent-service-syncs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l concurrent-serviceaccount-token-syncs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l concurrent-statefulset-syncs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l concurrent-ttl-after-finished-syncs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l concurrent-validating-admission-policy-status-syncs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l configure-cloud-routes -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l contention-profiling -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l controller-shutdown-timeout -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l controller-start-interval -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l disable-attach-detach-reconcile-sync -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l disable-force-detach-on-timeout -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l disable-http2-serving -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l disabled-metrics -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l emulated-version -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l enable-dynamic-provisioning -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l enable-garbage-collector -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l enable-hostpath-provisioner -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l enable-leader-migration -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l endpoint-updates-batch-period -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l endpointslice-updates-batch-period -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l external-cloud-volume-plugin -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l feature-gates -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l flex-volume-plugin-dir -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l horizontal-pod-autoscaler-cpu-initialization-period -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l horizontal-pod-autoscaler-downscale-stabilization -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l horizontal-pod-autoscaler-initial-readiness-delay -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l horizontal-pod-autoscaler-sync-period -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l horizontal-pod-autoscaler-tolerance -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l http2-max-streams-per-connection -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l kube-api-burst -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l kube-api-content-type -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l kube-api-qps -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l large-cluster-size-threshold -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l leader-elect -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l leader-elect-lease-duration -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l leader-elect-renew-deadline -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l leader-elect-resource-lock -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l leader-elect-resource-name -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l leader-elect-resource-namespace -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l leader-elect-retry-period -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l leader-migration-config -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l log-flush-frequency -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l log-json-info-buffer-size -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l log-json-split-stream -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l log-text-info-buffer-size -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l log-text-split-stream -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l logging-format -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l master -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l max-endpoints-per-slice -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l min-compatibility-version -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l min-resync-period -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l mirroring-concurrent-service-endpoint-syncs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l mirroring-endpointslice-updates-batch-period -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l mirroring-max-endpoints-per-subset -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l namespace-sync-period -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l node-eviction-rate -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l node-monitor-period -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l node-startup-grace-period -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l permit-address-sharing -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l permit-port-sharing -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l profiling -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l pv-recycler-increment-timeout-nfs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l pv-recycler-minimum-timeout-hostpath -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l pv-recycler-minimum-timeout-nfs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l pv-recycler-pod-template-filepath-hostpath -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l pv-recycler-pod-template-filepath-nfs -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l pv-recycler-timeout-increment-hostpath -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l pvclaimbinder-sync-period -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l requestheader-allowed-names -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l requestheader-client-ca-file -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l requestheader-extra-headers-prefix -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l requestheader-group-headers -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l requestheader-uid-headers -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l requestheader-username-headers -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l resource-quota-sync-period -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l route-reconciliation-period -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l secondary-node-eviction-rate -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l show-hidden-metrics-for-version -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l tls-cipher-suites -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l tls-curve-preferences -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l tls-min-version -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l tls-sni-cert-key -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l unhealthy-zone-threshold -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l unsupported-kube-api-over-localhost -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l use-service-account-credentials -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -s v -l v -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -l vmodule -r
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand controller-manager" -s V -l version -d 'Print version'
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l kubeconfig -d 'Kubeconfig with the identity to use' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l config -d 'Configuration file (KubeSchedulerConfiguration)' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l pod-max-in-unschedulable-pods-duration -d 'Longest that an unschedulable pod waits for an event before it is tried again' -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l bind-address -d 'Address to serve health and metrics on' -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l secure-port -d 'Port to serve health and metrics on' -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l tls-cert-file -d 'Certificate for the health and metrics port; plain HTTP without' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l tls-private-key-file -d 'Private key for the health and metrics port' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l allow-metric-labels -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l allow-metric-labels-manifest -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l authentication-kubeconfig -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l authentication-skip-lookup -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l authentication-token-webhook-cache-ttl -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l authentication-tolerate-lookup-failure -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l authorization-always-allow-paths -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l authorization-kubeconfig -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l authorization-webhook-cache-authorized-ttl -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l authorization-webhook-cache-unauthorized-ttl -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l cert-dir -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l client-ca-file -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l contention-profiling -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l disable-http2-serving -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l disabled-metrics -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l emulated-version -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l feature-gates -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l http2-max-streams-per-connection -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l kube-api-burst -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l kube-api-content-type -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l kube-api-qps -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l leader-elect -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l leader-elect-lease-duration -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l leader-elect-renew-deadline -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l leader-elect-resource-lock -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l leader-elect-resource-name -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l leader-elect-resource-namespace -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l leader-elect-retry-period -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l log-flush-frequency -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l log-json-info-buffer-size -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l log-json-split-stream -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l log-text-info-buffer-size -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l log-text-split-stream -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l logging-format -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l master -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l min-compatibility-version -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l permit-address-sharing -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l permit-port-sharing -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l profiling -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l requestheader-allowed-names -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l requestheader-client-ca-file -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l requestheader-extra-headers-prefix -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l requestheader-group-headers -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l requestheader-uid-headers -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l requestheader-username-headers -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l show-hidden-metrics-for-version -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l tls-cipher-suites -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l tls-curve-preferences -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l tls-min-version -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l tls-sni-cert-key -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l unsupported-kube-api-over-localhost -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -s v -l v -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l vmodule -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -l write-config-to -r
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand scheduler" -s V -l version -d 'Print version'
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l kubeconfig -d 'Kubeconfig for the API server; without it only static pods run' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l config -d 'KubeletConfiguration file' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l container-runtime-endpoint -d 'CRI socket' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l hostname-override -d 'Name of the Node instead of the host\'s name' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l node-ip -d 'Addresses of the node' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l node-labels -d 'Labels to register the Node with, key=value' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l register-with-taints -d 'Taints to register the Node with, key=value:effect' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l register-node -d 'Register the Node with the API server' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l cluster-dns -d 'DNS servers of pods' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l cluster-domain -d 'DNS domain of the cluster' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l root-dir -d 'State directory' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l pod-log-dir -d 'Directory of container logs' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l container-log-dir -d 'Directory of the log links that log shippers read' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l cgroup-driver -d 'cgroupfs or systemd' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l cgroup-root -d 'Parent cgroup of all pods' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l client-ca-file -d 'CA whose client certificates may call this kubelet' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l tls-cert-file -d 'Serving certificate' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l tls-private-key-file -d 'Key of the serving certificate' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l pod-manifest-path -d 'Directory of static pods' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l resolv-conf -d 'Resolver configuration that pods inherit' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l eviction-hard -d 'Thresholds such as memory.available<100Mi' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l eviction-minimum-reclaim -d 'Reclaims such as imagefs.available=10%' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l max-pods -d 'Pods that this node takes' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l address -d 'Address to serve on' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l port -d 'Port to serve on' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l healthz-bind-address -d 'Address of the health endpoint' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l healthz-port -d 'Port of the health endpoint, 0 for none' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l cni-conf-dir -d 'Directory of CNI configuration; when it holds one, the runtime alone tells network readiness' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l cloud-provider -d 'Cloud provider of the node; only "external" and none are known' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l provider-id -d 'Identifier of the node at its provider' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l fail-swap-on -d 'Refuse to start on a node with swap' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l container-log-max-size -d 'Largest size of a container log before it is rotated' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l container-log-max-files -d 'Log files kept per container' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l image-gc-high-threshold -d 'Disk use in percent above which unused images are removed' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l image-gc-low-threshold -d 'Disk use in percent down to which unused images are removed' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l serialize-image-pulls -d 'Pull images one after the other' -r -f -a "true\t''
false\t''"
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l certificate-dirs -d 'Directories of certificates whose remaining life is a metric' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -l node-status-report-frequency-secs -d 'Seconds between status reports when nothing changes' -r
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand kubelet" -s V -l version -d 'Print version'
complete -c k3s -n "__fish_k3s_using_subcommand flannel" -l kubeconfig -d 'Identity for the API server' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand flannel" -l node-name -d 'Name of this Node; the host name if not given' -r
complete -c k3s -n "__fish_k3s_using_subcommand flannel" -l backend -d 'How packets reach other nodes' -r -f -a "vxlan\t''
host-gw\t''
none\t'Somebody else connects the nodes'"
complete -c k3s -n "__fish_k3s_using_subcommand flannel" -l iface -d 'Link that carries traffic between nodes; that of the default route if not given' -r
complete -c k3s -n "__fish_k3s_using_subcommand flannel" -l node-ip -d 'Address of this node that other nodes reach' -r
complete -c k3s -n "__fish_k3s_using_subcommand flannel" -l cluster-cidr -d 'Addresses of all pods' -r
complete -c k3s -n "__fish_k3s_using_subcommand flannel" -l cni-conf-dir -d 'Where the list of CNI plugins is written' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand flannel" -l cni-socket -d 'Socket for the CNI plugin, if none is passed' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand flannel" -l lease-dir -d 'Where the leases of pod addresses are kept' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand flannel" -l subnet-file -d 'Environment file with the node\'s network' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand flannel" -l cleanup -d 'Remove links, routes, rules and files, and exit'
complete -c k3s -n "__fish_k3s_using_subcommand flannel" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c k3s -n "__fish_k3s_using_subcommand flannel" -s V -l version -d 'Print version'
complete -c k3s -n "__fish_k3s_using_subcommand proxy" -l kubeconfig -d 'Identity for the API server' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand proxy" -l hostname-override -d 'Name of this Node; the host name if not given' -r
complete -c k3s -n "__fish_k3s_using_subcommand proxy" -l cluster-cidr -d 'Addresses of pods; clients from elsewhere are masqueraded' -r
complete -c k3s -n "__fish_k3s_using_subcommand proxy" -l nodeport-addresses -d 'Addresses of this node that node ports are served on; all if not given' -r
complete -c k3s -n "__fish_k3s_using_subcommand proxy" -l healthz-bind-address -d 'Where `/healthz` is served, if no socket is passed' -r
complete -c k3s -n "__fish_k3s_using_subcommand proxy" -l cleanup -d 'Remove the rules and exit'
complete -c k3s -n "__fish_k3s_using_subcommand proxy" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand proxy" -s V -l version -d 'Print version'
complete -c k3s -n "__fish_k3s_using_subcommand dns" -l kubeconfig -d 'Identity for the API server' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand dns" -l cluster-dns -d 'Addresses to answer on; put on `lo`' -r
complete -c k3s -n "__fish_k3s_using_subcommand dns" -l cluster-domain -d 'Domain of the cluster\'s names' -r
complete -c k3s -n "__fish_k3s_using_subcommand dns" -l resolv-conf -d 'File that names the resolvers for all other names' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand dns" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand dns" -s V -l version -d 'Print version'
