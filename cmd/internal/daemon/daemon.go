// Package daemon is what the programs share: reading a configuration, a
// logger, version, health and metrics, and ending on a signal. It knows
// nothing of certificates or policy.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker; see Version.
var version string

// Version names the release, the commit and the Go toolchain of this program.
func Version() string {
	v, commit := version, ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if v == "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = s.Value
			}
		}
	}
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	if commit != "" {
		v += " (" + commit + ")"
	}
	return v + " " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
}

// codeUsage is the exit code for a command line that was not understood.
const codeUsage = 2

// Execute runs command until it ends or the process is told to stop, and
// returns the exit code: 0, 1 or that of an [ExitCode] after an error, 2 where
// the command line was not understood. The error has been printed to standard
// error.
func Execute(command *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	command.SilenceUsage, command.SilenceErrors = true, true
	command.Version = Version()
	command.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	started := false
	noteStart(command, &started)
	asked, err := command.ExecuteContextC(ctx)
	if err == nil || errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return 0
	}
	fmt.Fprintf(command.ErrOrStderr(), "%s: %v\n", command.Name(), err)
	if !started {
		fmt.Fprintf(command.ErrOrStderr(), "Run '%s --help' for its usage.\n", asked.CommandPath())
		return codeUsage
	}
	if coded, ok := errors.AsType[ExitCode](err); ok {
		return coded.Code
	}
	return 1
}

// noteStart sets started once the command line has been understood, which is
// when the work of command, or of one below it, begins.
func noteStart(command *cobra.Command, started *bool) {
	if work := command.RunE; work != nil {
		command.RunE = func(cmd *cobra.Command, args []string) error {
			*started = true
			return work(cmd, args)
		}
	}
	for _, below := range command.Commands() {
		noteStart(below, started)
	}
}

// An ExitCode is an error that ends the program with a code of its own.
type ExitCode struct {
	Code int
	Err  error
}

func (e ExitCode) Error() string { return e.Err.Error() }

// Unwrap gives the error beneath.
func (e ExitCode) Unwrap() error { return e.Err }

// Command is a daemon's command line: it reads the file that --config names
// into config, prints it for --print-config, and otherwise calls run.
func Command(name, short string, config Validator, run func(context.Context, *slog.Logger) error) *cobra.Command {
	var path, level string
	var printConfig bool
	command := &cobra.Command{
		Use:     name,
		Short:   short,
		Args:    cobra.NoArgs,
		Example: "  " + name + " --config /etc/istio-auth/config.yaml\n  " + name + " --config config.yaml --print-config",
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := Logger(cmd.ErrOrStderr(), level)
			if err != nil {
				return err
			}
			if path == "" {
				return errors.New("no configuration: name a file with --config")
			}
			if err := Load(path, config); err != nil {
				return err
			}
			if printConfig {
				return Print(cmd.OutOrStdout(), config)
			}
			log.Info("starting", "program", name, "version", Version())
			return run(cmd.Context(), log)
		},
	}
	command.Flags().StringVar(&path, "config", "", "configuration file (YAML)")
	command.Flags().BoolVar(&printConfig, "print-config", false, "print the configuration in force, defaults filled in, and exit")
	command.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	command.AddCommand(VersionCommand())
	return command
}

// VersionCommand prints the version, as --version does.
func VersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print version, commit and toolchain",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintln(cmd.OutOrStdout(), cmd.Root().Name(), Version())
		},
	}
}

// Logger writes JSON lines at the given level and above to w.
func Logger(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: want debug, info, warn or error", level)
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l})), nil
}
