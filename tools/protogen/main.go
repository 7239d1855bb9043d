// Protogen compiles our .proto files, lints them, and writes the Go code beside
// them.
//
//	go -C tools run ./protogen ca/capb/ca.proto
//
// Paths are relative to the root of the repository. It is a small driver
// around protocompile, buf's compiler, with the plugins that this module pins:
// buf itself takes 240 CPU seconds to build (868 packages, measured cold on two
// cores) and asks for an unreleased protobuf; this takes 40, and no network.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stderr))
}

func run(ctx context.Context, paths []string, stderr io.Writer) int {
	if len(paths) == 0 {
		fmt.Fprintln(stderr, "usage: protogen file.proto...")
		return 2
	}
	for _, path := range paths {
		if err := generate(ctx, "..", path); err != nil {
			fmt.Fprintf(stderr, "protogen: %s: %v\n", path, err)
			return 1
		}
	}
	return 0
}

// generate writes the Go code for path, a .proto file below root.
func generate(ctx context.Context, root, path string) error {
	file, err := compile(ctx, root, path)
	if err != nil {
		return err
	}
	if problems := lint(file); len(problems) > 0 {
		return errors.Join(problems...)
	}
	request := &pluginpb.CodeGeneratorRequest{
		FileToGenerate: []string{path},
		Parameter:      proto.String("paths=source_relative"),
		ProtoFile:      closure(file),
	}
	plugins := []string{"protoc-gen-go"}
	if file.Services().Len() > 0 {
		plugins = append(plugins, "protoc-gen-go-grpc")
	}
	for _, plugin := range plugins {
		if err := runPlugin(ctx, plugin, request, root); err != nil {
			return fmt.Errorf("%s: %w", plugin, err)
		}
	}
	return nil
}

func compile(ctx context.Context, root, path string) (protoreflect.FileDescriptor, error) {
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{root}}),
		// Comments of the .proto become comments of the Go code.
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	files, err := compiler.Compile(ctx, path)
	if err != nil {
		return nil, err
	}
	return files[0], nil
}

// closure lists file and all that it imports, imports first, as plugins expect.
func closure(file protoreflect.FileDescriptor) []*descriptorpb.FileDescriptorProto {
	var list []*descriptorpb.FileDescriptorProto
	seen := map[string]bool{}
	var visit func(protoreflect.FileDescriptor)
	visit = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			visit(f.Imports().Get(i))
		}
		list = append(list, protodesc.ToFileDescriptorProto(f))
	}
	visit(file)
	return list
}

// runPlugin runs a plugin that this module pins and writes what it answers.
func runPlugin(ctx context.Context, plugin string, request *pluginpb.CodeGeneratorRequest, root string) error {
	in, err := proto.MarshalOptions{Deterministic: true}.Marshal(request)
	if err != nil {
		return err
	}
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", "tool", plugin)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &stderr
	// The plugin is built for this machine, whatever the caller cross-compiles to.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return bytes.HasPrefix([]byte(v), []byte("GOOS=")) || bytes.HasPrefix([]byte(v), []byte("GOARCH="))
	})
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	var response pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out.Bytes(), &response); err != nil {
		return err
	}
	if response.Error != nil {
		return errors.New(response.GetError())
	}
	for _, f := range response.File {
		if err := os.WriteFile(filepath.Join(root, f.GetName()), []byte(f.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
