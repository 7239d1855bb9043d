// Command images writes Istio-Auth's container images as OCI archives, without
// a container runtime and from nothing: an image holds one static program and
// no operating system. The same source gives the same bytes, except in the
// envoy image, which carries this machine's C library.
//
// It is a module of its own, so that the library it uses stays out of the
// product's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	module   = "github.com/istio-auth/istio-auth"
	registry = "istio-auth.local/" // nobody's: images are loaded, or pushed under a name of one's own
)

// nonroot is the user of every program that needs no right of root's.
const nonroot = "65532:65532"

// An image is one program, or Envoy, and how it runs.
type image struct {
	name  string
	about string
	pkg   string // Go package of the program, relative to the root
	user  string
	args  []string
}

var images = []image{
	{name: "istio-ca", about: "The certificate authority of Istio-Auth", pkg: "cmd/istio-ca", user: nonroot},
	{name: "istio-manager", about: "The policy manager of Istio-Auth", pkg: "cmd/istio-manager", user: nonroot},
	// It mounts volumes into pods and asks the kernel who its peers are.
	{name: "istio-nodeagent", about: "The node agent of Istio-Auth", pkg: "cmd/istio-nodeagent", user: "0:0"},
	{name: "istio-auth", about: "The command line of Istio-Auth", pkg: "cmd/istio-auth", user: nonroot},
	{name: "envoy", about: "Envoy for tests of Istio-Auth; not for production", user: nonroot},
	{name: "demo", about: "A server and a client for tests of Istio-Auth", pkg: "test/node/demoapp", user: nonroot, args: []string{"serve"}},
	{name: "pause", about: "The process that keeps a pod's namespaces, in tests", pkg: "test/node/demoapp", user: nonroot, args: []string{"pause"}},
}

// options are the command's flags.
type options struct {
	root, out, envoy, version, revision, arch, only string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	var o options
	flags := flag.NewFlagSet("images", flag.ContinueOnError)
	flags.StringVar(&o.root, "root", "../..", "the repository's root")
	flags.StringVar(&o.out, "out", "../../dist/images", "where the archives go")
	flags.StringVar(&o.envoy, "envoy", "", "the Envoy binary; empty writes no envoy image")
	flags.StringVar(&o.version, "version", "devel", "the version, which is the images' tag too")
	flags.StringVar(&o.revision, "revision", "", "the commit, for the annotations")
	flags.StringVar(&o.arch, "arch", runtime.GOARCH, "the processor: amd64 or arm64")
	flags.StringVar(&o.only, "only", "", "the images to write, separated by commas; empty means all")
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen, err := choose(o)
	if err != nil {
		return err
	}
	bin, err := os.MkdirTemp("", "images")
	if err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	defer os.RemoveAll(bin)
	if err := build(ctx, o, bin, chosen); err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return fmt.Errorf("making the folder of the archives: %w", err)
	}
	for _, i := range chosen {
		files, err := content(ctx, o, bin, i)
		if err != nil {
			return err
		}
		made, err := assemble(o, i, files)
		if err != nil {
			return fmt.Errorf("making the image %s: %w", i.name, err)
		}
		path := filepath.Join(o.out, i.name+".tar")
		digest, err := archive(made, o.reference(i), path)
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%s %s@%s\n", path, o.reference(i), digest)
	}
	return nil
}

// choose is the images to write. Naming one that is not here is an error, and
// so is Envoy without its binary or for another processor than this one's.
func choose(o options) ([]image, error) {
	chosen := slices.Clone(images)
	if o.only != "" {
		chosen = nil
		for name := range strings.SplitSeq(o.only, ",") {
			i := slices.IndexFunc(images, func(i image) bool { return i.name == name })
			if i < 0 {
				return nil, fmt.Errorf("no image is named %q", name)
			}
			chosen = append(chosen, images[i])
		}
	} else if o.envoy == "" {
		chosen = slices.DeleteFunc(chosen, func(i image) bool { return i.pkg == "" })
	}
	for _, i := range chosen {
		if i.pkg == "" && o.envoy == "" {
			return nil, errors.New("the envoy image needs -envoy")
		}
		if i.pkg == "" && o.arch != runtime.GOARCH {
			return nil, errors.New("the envoy image carries this machine's C library: it can only be made for its processor")
		}
	}
	return chosen, nil
}

// build compiles all programs of the images at once, static, into bin.
func build(ctx context.Context, o options, bin string, chosen []image) error {
	var packages []string
	for _, i := range chosen {
		if pkg := "./" + i.pkg; i.pkg != "" && !slices.Contains(packages, pkg) {
			packages = append(packages, pkg)
		}
	}
	if len(packages) == 0 {
		return nil
	}
	args := []string{"build", "-trimpath", "-buildvcs=false", "-o", bin + "/",
		"-ldflags", "-s -w -X " + module + "/cmd/internal/daemon.version=" + o.version}
	cmd := exec.CommandContext(ctx, "go", append(args, packages...)...)
	cmd.Dir = o.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+o.arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the programs: %w\n%s", err, out)
	}
	return nil
}

// content is the files of an image.
func content(ctx context.Context, o options, bin string, i image) ([]file, error) {
	if i.pkg == "" {
		return withLibraries(ctx, o.envoy, "/envoy")
	}
	return []file{{name: "/" + i.name, from: filepath.Join(bin, filepath.Base(i.pkg))}}, nil
}

// reference is the name under which a runtime finds the image.
func (o options) reference(i image) string { return registry + i.name + ":" + o.version }

// annotations say where an image is from, by the keys of the OCI image
// specification.
func (o options) annotations(i image) map[string]string {
	a := map[string]string{
		"org.opencontainers.image.title":       i.name,
		"org.opencontainers.image.description": i.about,
		"org.opencontainers.image.source":      "https://" + module,
		"org.opencontainers.image.version":     o.version,
		"org.opencontainers.image.licenses":    "Apache-2.0",
	}
	if o.revision != "" {
		a["org.opencontainers.image.revision"] = o.revision
	}
	return a
}

// config is how a runtime runs the image. Labels repeat the annotations for
// the tools that read only those.
func (o options) config(i image) *v1.ConfigFile {
	return &v1.ConfigFile{
		OS: "linux", Architecture: o.arch,
		Config: v1.Config{
			Entrypoint: append([]string{"/" + i.name}, i.args...),
			User:       i.user,
			WorkingDir: "/",
			Env:        []string{"PATH=/"},
			Labels:     o.annotations(i),
		},
		RootFS: v1.RootFS{Type: "layers"},
	}
}
