// Command istio-nodeagent serves the workloads of one node their identities
// and the policies that concern them.
//
// Started with --keep, as in its container, it is the keeper: it runs itself
// once more without the flag, and again at once whenever that child dies.
package main

import (
	"os"

	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
	"github.com/istio-auth/istio-auth/cmd/internal/nodeagent"
)

func main() { os.Exit(daemon.Execute(nodeagent.Command())) }
