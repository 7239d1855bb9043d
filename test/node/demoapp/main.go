// Command demoapp is what runs in the pods of tests: a server that says what it
// was asked, a client that reports what it was answered, and a process that
// only waits. It is one static program, so that a pod needs no more.
//
// It keeps to the standard library: it stands for somebody's application, which
// knows nothing of Istio-Auth.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const usage = `usage:
  demoapp serve [ADDRESS]      answer HTTP requests with what was asked (default :8080)
  demoapp echo ADDRESS         answer TCP connections line by line
  demoapp get URL [TIMEOUT]    ask once; print the status and the body; exit 1 unless the status is 2xx
  demoapp tcp ADDRESS LINE     send a line to a TCP server; print the answer
  demoapp cat FILE...          print files
  demoapp ls FOLDER...         print the names below folders
  demoapp dial SOCKET          connect to a Unix socket
  demoapp load URL RATE        ask RATE times a second until the input ends; print the counts as JSON
  demoapp pause                wait for a signal
  demoapp linger               wait, and ignore every request to end
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demoapp:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) == 0 {
		return errors.New("no arguments\n" + usage)
	}
	verb, rest := args[0], args[1:]
	switch {
	case verb == "pause":
		<-ctx.Done()
		return nil
	case verb == "linger":
		signal.Ignore(syscall.SIGTERM)
		select {}
	case verb == "load" && len(rest) == 2:
		return runLoad(ctx, rest, os.Stdin, stdout)
	case verb == "serve" && len(rest) <= 1:
		return serve(ctx, append(rest, ":8080")[0], stdout)
	case verb == "echo" && len(rest) == 1:
		return echo(ctx, rest[0])
	case verb == "get" && (len(rest) == 1 || len(rest) == 2):
		return get(ctx, append(rest, "10s"), stdout)
	case verb == "tcp" && len(rest) == 2:
		return tcp(ctx, rest[0], rest[1], stdout)
	case verb == "cat" && len(rest) > 0:
		return cat(rest, stdout)
	case verb == "ls" && len(rest) > 0:
		return ls(rest, stdout)
	case verb == "dial" && len(rest) == 1:
		conn, err := new(net.Dialer).DialContext(ctx, "unix", rest[0])
		if err != nil {
			return err
		}
		return conn.Close()
	}
	return errors.New("unknown arguments\n" + usage)
}

// asked is what a server answers, and logs: what reached it.
type asked struct {
	Host   string      `json:"host"` // the server's own name
	Method string      `json:"method"`
	Path   string      `json:"path"`
	Remote string      `json:"remote"`
	Header http.Header `json:"header"`
}

// serve answers until ctx ends. /healthz is answered without a word in the log.
func serve(ctx context.Context, address string, stdout io.Writer) error {
	log := slog.New(slog.NewJSONHandler(stdout, nil))
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		a := asked{Host: name, Method: r.Method, Path: r.URL.RequestURI(), Remote: r.RemoteAddr, Header: r.Header}
		log.Info("asked", "method", a.Method, "path", a.Path, "remote", a.Remote)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a)
	})
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	log.Info("serving", "address", listener.Addr().String())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	unhook := context.AfterFunc(ctx, func() { server.Close() })
	defer unhook()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// echo answers each line of each connection with itself until ctx ends.
func echo(ctx context.Context, address string) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	unhook := context.AfterFunc(ctx, func() { listener.Close() })
	defer unhook()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		}()
	}
}

func get(ctx context.Context, args []string, stdout io.Writer) error {
	timeout, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, args[0], nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s\n%s", resp.Status, body)
	if resp.StatusCode/100 != 2 {
		return errors.New(resp.Status)
	}
	return nil
}

func tcp(ctx context.Context, address, line string, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	unhook := context.AfterFunc(ctx, func() { conn.Close() })
	defer unhook()
	if _, err := fmt.Fprintln(conn, line); err != nil {
		return err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdout, answer)
	return err
}

func cat(names []string, stdout io.Writer) error {
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if _, err := stdout.Write(data); err != nil {
			return err
		}
	}
	return nil
}

func ls(folders []string, stdout io.Writer) error {
	for _, folder := range folders {
		err := filepath.WalkDir(folder, func(name string, d os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			fmt.Fprintln(stdout, d.Type().String(), strings.TrimPrefix(name, folder))
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
