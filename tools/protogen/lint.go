package main

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

var (
	versioned  = regexp.MustCompile(`^istioauth(\.[a-z]+)+\.v[1-9][0-9]*((alpha|beta)[1-9][0-9]*)?$`)
	lowerSnake = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
	upperSnake = regexp.MustCompile(`^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$`)
	camel      = regexp.MustCompile(`^([A-Z][a-z0-9]*)+$|^[A-Z]+[A-Za-z0-9]*$`)
)

// lint holds those rules of buf's STANDARD set that a later reader would miss;
// buf.yaml has the set for those who have buf. It reports every breach.
func lint(file protoreflect.FileDescriptor) []error {
	l := &linter{file: file}
	l.check(file, file.Syntax() == protoreflect.Proto3, "is not proto3")
	l.check(file, versioned.MatchString(string(file.Package())), "package is not istioauth.<name>.v<number>")
	l.check(file, strings.HasSuffix(file.Path(), ".proto") && lowerSnake.MatchString(strings.TrimSuffix(path.Base(file.Path()), ".proto")), "file name is not lower_snake_case")
	l.documented(file, "package")
	for i := range file.Messages().Len() {
		l.message(file.Messages().Get(i))
	}
	for i := range file.Enums().Len() {
		l.enum(file.Enums().Get(i))
	}
	for i := range file.Services().Len() {
		s := file.Services().Get(i)
		l.documented(s, "service")
		for j := range s.Methods().Len() {
			l.documented(s.Methods().Get(j), "method")
		}
	}
	return l.problems
}

type linter struct {
	file     protoreflect.FileDescriptor
	problems []error
}

func (l *linter) check(d protoreflect.Descriptor, ok bool, problem string) {
	if !ok {
		line := l.file.SourceLocations().ByDescriptor(d).StartLine + 1
		l.problems = append(l.problems, fmt.Errorf("line %d: %s %s", line, d.FullName(), problem))
	}
}

// documented wants a comment on what others program against.
func (l *linter) documented(d protoreflect.Descriptor, what string) {
	if _, isFile := d.(protoreflect.FileDescriptor); isFile {
		return
	}
	comment := l.file.SourceLocations().ByDescriptor(d).LeadingComments
	l.check(d, strings.TrimSpace(comment) != "", "("+what+") has no comment")
}

func (l *linter) message(m protoreflect.MessageDescriptor) {
	if m.IsMapEntry() {
		return
	}
	l.check(m, camel.MatchString(string(m.Name())), "is not CamelCase")
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		l.check(f, lowerSnake.MatchString(string(f.Name())), "is not lower_snake_case")
	}
	for i := range m.Messages().Len() {
		l.message(m.Messages().Get(i))
	}
	for i := range m.Enums().Len() {
		l.enum(m.Enums().Get(i))
	}
}

// enum wants the zero value to mean "not said", so that a sender who forgot
// the field never picks a meaning by accident.
func (l *linter) enum(e protoreflect.EnumDescriptor) {
	values := e.Values()
	l.check(e, strings.HasSuffix(string(values.Get(0).Name()), "_UNSPECIFIED"), "has a zero value that is not _UNSPECIFIED")
	for i := range values.Len() {
		l.check(values.Get(i), upperSnake.MatchString(string(values.Get(i).Name())), "is not UPPER_SNAKE_CASE")
	}
}
