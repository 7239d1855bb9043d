// Command istio-ca is the certificate authority of a mesh.
package main

import (
	"os"

	"github.com/istio-auth/istio-auth/cmd/internal/ca"
	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
)

func main() { os.Exit(daemon.Execute(ca.Command())) }
