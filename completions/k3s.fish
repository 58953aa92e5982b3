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
complete -c k3s -n "__fish_k3s_needs_command" -f -a "server" -d 'Run a server: control plane and, unless disabled, a node'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "status" -d 'Show the components of this node and their state'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "kubectl" -d 'Run the system\'s kubectl with this cluster\'s kubeconfig'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "crictl" -d 'Run the system\'s crictl on this node\'s containerd'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "ctr" -d 'Run the system\'s ctr on this node\'s containerd'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "completion" -d 'Print a completion script'
complete -c k3s -n "__fish_k3s_needs_command" -f -a "flannel" -d 'Pod network of this node'
complete -c k3s -n "__fish_k3s_using_subcommand server" -s c -l config -d 'Configuration file; `FILE.d/*.yaml` is read after it' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand server" -s d -l data-dir -d 'Folder of all state' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand server" -s t -l token -d 'Shared secret to join the cluster' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l token-file -d 'File with the shared secret' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand server" -l node-name -d 'Name of the node; the lower-case host name by default' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l node-label -d 'Labels that the node registers with, `key=value`' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l node-taint -d 'Taints that the node registers with, `key=value:effect`' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -s i -l node-ip -d 'Address of the node; that of the default route by default' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l flannel-iface -d 'Interface of the pod network; that of the node\'s address by default' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l container-runtime-endpoint -d 'Socket of a container runtime that already runs; none is started then' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l pause-image -d 'Image that holds the namespaces of a pod; a built-in one by default' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l snapshotter -d 'containerd\'s snapshotter' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l resolv-conf -d 'resolv.conf for pods that use the node\'s DNS' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand server" -l kubelet-arg -d 'Flags for the kubelet, `key=value`' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l kube-proxy-arg -d 'Flags for the proxy, `key=value`' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l bind-address -d 'Address that the API server listens on' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l https-listen-port -d 'Port that the API server listens on' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l advertise-address -d 'Address that the API server advertises to the cluster' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l tls-san -d 'Further host names and addresses for the serving certificate' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l cluster-cidr -d 'Network of the pods' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l service-cidr -d 'Network of the Services' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l service-node-port-range -d 'Ports for Services of type NodePort' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l cluster-dns -d 'Address of the cluster DNS; the tenth of the service network by default' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l cluster-domain -d 'Domain of the cluster DNS' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l flannel-backend -d 'Backend of the pod network' -r -f -a "none\t''
vxlan\t''
host-gw\t''"
complete -c k3s -n "__fish_k3s_using_subcommand server" -s o -l write-kubeconfig -d 'Write the administrator\'s kubeconfig to this file' -r -F
complete -c k3s -n "__fish_k3s_using_subcommand server" -l write-kubeconfig-mode -d 'Mode of the administrator\'s kubeconfig' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l agent-token -d 'Token that agents join with in place of the server\'s' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l kube-apiserver-arg -d 'Flags for the API server, `key=value`' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l kube-controller-manager-arg -d 'Flags for the controller manager, `key=value`' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l kube-scheduler-arg -d 'Flags for the scheduler, `key=value`' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l datastore-endpoint -d 'An etcd to use in place of the built-in store: `http://host:2379` or `unix:///path`' -r
complete -c k3s -n "__fish_k3s_using_subcommand server" -l debug -d 'Log more'
complete -c k3s -n "__fish_k3s_using_subcommand server" -l disable-kube-proxy -d 'Do not run the proxy'
complete -c k3s -n "__fish_k3s_using_subcommand server" -l disable-scheduler -d 'Do not run the scheduler'
complete -c k3s -n "__fish_k3s_using_subcommand server" -l disable-controller-manager -d 'Do not run the controller manager'
complete -c k3s -n "__fish_k3s_using_subcommand server" -l disable-agent -d 'Do not run a node on this server'
complete -c k3s -n "__fish_k3s_using_subcommand server" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand status" -l json -d 'Print JSON instead of a table'
complete -c k3s -n "__fish_k3s_using_subcommand status" -s h -l help -d 'Print help'
complete -c k3s -n "__fish_k3s_using_subcommand completion" -s h -l help -d 'Print help'
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
