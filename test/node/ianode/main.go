// Command ianode runs the node of the end-to-end tests by hand. In one terminal
//
//	go run ./test/node/ianode up
//
// starts it and keeps it until Ctrl-C; in another, exec, kubectl, helm and load
// work inside it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/istio-auth/istio-auth/test/node"
)

const usage = `usage, in the repository, as root:
  ianode up              start the node, and end it on Ctrl-C
  ianode exec COMMAND    run a command inside it
  ianode kubectl ...     kubectl as the admin
  ianode helm ...        helm as the admin
  ianode load ARCHIVE    load an image from dist/images
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode()) // it has said why
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "ianode:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("no arguments\n" + usage)
	}
	tree, err := os.Getwd()
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(tree, "test", "node", "ianode")); err != nil {
		return fmt.Errorf("run me in the root of the repository: %w", err)
	}
	if args[0] == "up" {
		return up(ctx, tree)
	}
	n, err := node.Attach(tree)
	if err != nil {
		return err
	}
	var cmd *exec.Cmd
	switch {
	case args[0] == "exec" && len(args) > 1:
		cmd = n.Command(ctx, args[1:]...)
	case args[0] == "kubectl" || args[0] == "helm":
		cmd = n.Command(ctx, args...)
	case args[0] == "load" && len(args) == 2:
		cmd = n.Command(ctx, "ctr", "--namespace", "k8s.io", "images", "import", args[1])
	default:
		return errors.New("unknown arguments\n" + usage)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

// up keeps a node until ctx ends.
func up(ctx context.Context, tree string) error {
	began := time.Now()
	n, err := node.Up(ctx, tree)
	if err != nil {
		return err
	}
	fmt.Printf(`%s is ready after %.1f s. Ctrl-C ends it and removes all of it. Elsewhere:
  go run ./test/node/ianode kubectl get pods -A
  go run ./test/node/ianode exec sh
kubeconfig: %s (its server is reached from inside: exec, or nsenter --net=%s)
`, node.Name, time.Since(began).Seconds(), n.Kubeconfig(), n.Path("/proc/1/ns/net"))
	<-ctx.Done()
	return n.Down()
}
