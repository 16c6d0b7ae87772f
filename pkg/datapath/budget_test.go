// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// The verifier's budget: what each program costs it on each kernel, in a committed file a kernel.
// SYNWARD_TEST_UPDATE=1 writes the file anew (through the serial console where it runs in a VM).
const (
	budgetDir      = "testdata/budget"
	updateVariable = "SYNWARD_TEST_UPDATE"
	vmVariable     = "SYNWARD_VM"
)

// What the verifier takes at most, and how near we go: 1,000,000 instructions and 512 bytes.
const (
	mostInstructions = 500_000
	mostStack        = 480
)

// cost is what the kernel says of a loaded program. stack is what kernels from 7 on say, and before them
// what follows from the frames that they tell, see deepestChain.
type cost struct{ instructions, stack, jited int }

const costFormat = "%s instructions %d stack %d jited %d"

// TestVerifierBudget: growth by more than a tenth fails until the file is changed on purpose. It is of the
// programs that can do everything; what those cost that most interfaces have is only shown.
func TestVerifierBudget(t *testing.T) {
	m, err := createMaps()
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	var text strings.Builder
	got := map[string]cost{}
	for _, h := range []hook{hookXDP, hookTCX, hookTCXOut} {
		c, err := measureProgram(m, h, uint32(limiterFeatureFEATURE_ALL))
		if err != nil {
			t.Fatal(err)
		}
		least, err := measureProgram(m, h, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s without features: %+v", h.program(), least)
		got[h.program()] = c
		fmt.Fprintf(&text, costFormat+"\n", h.program(), c.instructions, c.stack, c.jited)
		if c.instructions > mostInstructions || c.stack > mostStack {
			t.Errorf("%s is close to what the verifier takes: %+v", h.program(), c)
		}
	}
	path := filepath.Join(budgetDir, kernelSeries(t)+".txt")
	t.Logf("%s:\n%s", path, text.String())
	if os.Getenv(updateVariable) != "" {
		writeBudget(t, path, text.String())
		return
	}
	checkBudget(t, path, got)
}

func checkBudget(t *testing.T, path string, got map[string]cost) {
	file, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		t.Logf("no budget is committed for this kernel")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(file)), "\n") {
		var name string
		var want cost
		if _, err := fmt.Sscanf(line, costFormat, &name, &want.instructions, &want.stack, &want.jited); err != nil {
			t.Fatalf("%s: %q: %v", path, line, err)
		}
		have := got[name]
		if have.instructions*10 > want.instructions*11 || have.jited*10 > want.jited*11 || have.stack > want.stack {
			t.Errorf("%s has grown to %+v from %+v: if that is meant, run make budget", name, have, want)
		}
	}
}

func writeBudget(t *testing.T, path, text string) {
	if os.Getenv(vmVariable) != "" {
		fmt.Printf("\nVMFILE pkg/datapath/%s %s\n", path, base64.StdEncoding.EncodeToString([]byte(text)))
		return
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// kernelSeries is the running kernel's version in two numbers.
func kernelSeries(t *testing.T) string {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`^\d+\.\d+`).FindString(unix.ByteSliceToString(uts.Release[:]))
}

var (
	processed  = regexp.MustCompile(`processed (\d+) insns`)
	stackDepth = regexp.MustCompile(`stack depth ([\d+]+)`)
	stackMax   = regexp.MustCompile(`stack depth max (\d+)`) // kernels from 7 on
)

// measureProgram loads a program on m and reads the verifier's statistics.
func measureProgram(m *mapSet, h hook, features uint32) (cost, error) {
	f := frozen{linkHeader: true, features: features}
	prog, log, err := m.loadVerbose(h, f, ebpf.LogLevelStats)
	if err != nil {
		return cost{}, err
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		return cost{}, err
	}
	jited, err := info.JitedSize()
	if err != nil {
		return cost{}, err
	}
	c := cost{jited: int(jited)}
	if found := processed.FindStringSubmatch(log); found != nil {
		c.instructions, _ = strconv.Atoi(found[1])
	}
	if found := stackDepth.FindStringSubmatch(log); found != nil {
		spec, err := f.spec(h)
		if err != nil {
			return cost{}, err
		}
		functions, err := info.FuncInfos()
		if err != nil {
			return cost{}, err
		}
		if c.stack, err = deepestChain(spec.Programs[h.program()].Instructions, functions, found[1]); err != nil {
			return cost{}, err
		}
	}
	if found := stackMax.FindStringSubmatch(log); found != nil {
		c.stack, _ = strconv.Atoi(found[1])
	}
	if c.instructions == 0 || c.stack == 0 || c.jited == 0 {
		return c, fmt.Errorf("the kernel did not say what %s cost: %+v; its log: %q", h.program(), c, log)
	}
	return c, nil
}

// deepestChain is the most stack that a chain of calls takes, callbacks included, each frame as the kernel
// rounds it. functions are those that the kernel has not left out as dead; depths are their frames.
func deepestChain(code asm.Instructions, functions btf.FuncOffsets, depths string) (int, error) {
	told := strings.Split(depths, "+")
	if len(told) != len(functions) {
		return 0, fmt.Errorf("the kernel tells the frames of %d functions of %d", len(told), len(functions))
	}
	frames := map[string]int{}
	for n, f := range functions {
		bytes, err := strconv.Atoi(told[n])
		if err != nil {
			return 0, fmt.Errorf("read stack of %s: %w", f.Func.Name, err)
		}
		frames[f.Func.Name] = max(bytes+31, 32) / 32 * 32
	}
	calls := map[string][]string{}
	own := ""
	for _, ins := range code {
		if f := btf.FuncMetadata(&ins); f != nil {
			own = f.Name
		}
		if ins.IsFunctionReference() {
			calls[own] = append(calls[own], ins.Reference())
		}
	}
	var deepest func(name string) int
	deepest = func(name string) (most int) {
		for _, called := range calls[name] {
			if frames[called] > 0 {
				most = max(most, deepest(called))
			}
		}
		return most + frames[name]
	}
	return deepest(functions[0].Func.Name), nil
}
