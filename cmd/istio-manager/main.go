// Command istio-manager collects policies and sends each node those of its workloads.
package main

import (
	"os"

	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
	"github.com/istio-auth/istio-auth/cmd/internal/manager"
)

func main() { os.Exit(daemon.Execute(manager.Command())) }
