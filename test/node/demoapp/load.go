package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	// loadTimeout is how long one request of a load may take.
	loadTimeout = 5 * time.Second
	// freshEvery is how often a request gets a connection of its own.
	freshEvery = 20
	// keptFailures is how many failures are told of in full.
	keptFailures = 10
)

// A tally is what became of a load's requests. Every request is counted once,
// in one of OK, Denied and Failed.
type tally struct {
	Sent     int           `json:"sent"`
	OK       int           `json:"ok"`       // 2xx
	Denied   int           `json:"denied"`   // 403
	Failed   int           `json:"failed"`   // any other status, and no answer at all
	Repeated int           `json:"repeated"` // sent again by Go's client itself, since a kept connection had ended
	Fresh    int           `json:"fresh"`    // of those sent, on a new connection
	Failures []failure     `json:"failures"` // the first few
	Took     time.Duration `json:"took"`
	Median   time.Duration `json:"median"` // of the answers' times, as all below; from the scheduled moment on
	P99      time.Duration `json:"p99"`
	Max      time.Duration `json:"max"`
}

// A failure is a request that was neither answered nor denied.
type failure struct {
	At  time.Time `json:"at"`
	Err string    `json:"err"`
}

// A load asks one URL at a fixed rate.
type load struct {
	url  string
	keep *http.Client // connections that are used again
	once *http.Client // a connection for each request

	mu    sync.Mutex // guards what follows
	tally tally
	times []time.Duration
}

// runLoad asks until ctx or the input ends, and prints the tally as JSON. The
// loop is open: each request leaves at its time, whether or not others have been
// answered, so that a server that stalls is seen to stall.
func runLoad(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	rate, err := strconv.Atoi(args[1])
	if err != nil || rate < 1 || rate > 10_000 {
		return fmt.Errorf("a rate of %q: want 1 to 10000 a second", args[1])
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the process at the latest
		_, _ = io.Copy(io.Discard, stdin)
		cancel()
	}()
	dialer := &net.Dialer{Timeout: loadTimeout}
	l := &load{
		url:  args[0],
		keep: &http.Client{Timeout: loadTimeout, Transport: &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute}},
		once: &http.Client{Timeout: loadTimeout, Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}},
	}
	return json.NewEncoder(stdout).Encode(l.run(ctx, rate))
}

func (l *load) run(ctx context.Context, rate int) tally {
	var under sync.WaitGroup
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	sent := 0
	for ; ; sent++ {
		due := began.Add(time.Duration(sent) * time.Second / time.Duration(rate))
		timer.Reset(time.Until(due))
		select {
		case <-ctx.Done():
			under.Wait()
			return l.sum(sent, time.Since(began))
		case <-timer.C:
		}
		client := l.keep
		if sent%freshEvery == 0 {
			client = l.once
		}
		under.Go(func() { l.ask(client, due) })
	}
}

// ask sends one request. It is not bound to the load's end: what was sent is
// waited for.
func (l *load) ask(client *http.Client, due time.Time) {
	code, attempts, err := status(client, l.url)
	took := time.Since(due)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally.Repeated += max(0, attempts-1)
	l.times = append(l.times, took)
	switch {
	case err == nil && code/100 == 2:
		l.tally.OK++
		return
	case err == nil && code == http.StatusForbidden:
		l.tally.Denied++
		return
	case err == nil:
		err = fmt.Errorf("status %d", code)
	}
	l.tally.Failed++
	if len(l.tally.Failures) < keptFailures {
		l.tally.Failures = append(l.tally.Failures, failure{At: time.Now(), Err: err.Error()})
	}
}

// status asks once and reads the answer to its end. It counts the connections
// that the request was tried on: net/http repeats a GET on its own.
func status(client *http.Client, url string) (code, attempts int, err error) {
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { attempts++ }}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), http.MethodGet, url, nil)
	if err != nil {
		return 0, 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, attempts, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, attempts, fmt.Errorf("reading the answer: %w", err)
	}
	return resp.StatusCode, attempts, nil
}

func (l *load) sum(sent int, took time.Duration) tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tally
	t.Sent, t.Fresh, t.Took = sent, (sent+freshEvery-1)/freshEvery, took
	slices.Sort(l.times)
	if n := len(l.times); n > 0 {
		t.Median, t.P99, t.Max = l.times[n/2], l.times[n*99/100], l.times[n-1]
	}
	return t
}
