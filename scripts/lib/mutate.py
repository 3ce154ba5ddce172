# SPDX-License-Identifier: MIT
"""What scripts/mutate runs: builds the tests once with all mutants in them, then runs each mutant."""
import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

from mutate_sites import Header

REPO = pathlib.Path(__file__).resolve().parents[2]
EQUIVALENT = REPO / 'tests/mutation/equivalent.txt'
# What is mutated: memory/, the exits' decoder, and what they are made of.
HEADERS = ['memory/*.hpp', 'exit.hpp', 'detail/slot_registry.hpp', 'detail/slot_state.hpp',
           'detail/slot_table.hpp', 'detail/slot_ids.hpp', 'detail/address_space.hpp',
           'detail/memory_reader.hpp', 'detail/guest_access.hpp', 'detail/dirty_words.hpp',
           'detail/dirty_rings.hpp', 'detail/dirty_collector.hpp', 'detail/exit_visitor.hpp',
           'detail/barriers.hpp', 'detail/vcpu_pages.hpp']
# The tests that can notice, and tests/mutation/*_test.cpp. Suites named Serial are left out: they
# measure time, or need all cores.
TESTS = {
    'unit': ['barriers', 'describe', 'dirty_bitmap', 'dirty_words', 'exit', 'guest_access', 'mapping',
             'pending_pages', 'slot_hints', 'slot_ids', 'slot_ids_allocation', 'slot_table', 'vcpu_pages',
             'visit'],
    'kvm': ['completion', 'departing_slot', 'dirty_allocation', 'dirty_log', 'dirty_model',
            'dirty_ring', 'dirty_throw', 'dirty_tracker', 'exits', 'gfn_to_hva_cache', 'guest_memfd',
            'guest_memory', 'handles', 'mapping', 'memory_conformance', 'memory_observer',
            'memory_slot', 'memory_stress', 'misuse', 'vm_calls'],
    'fault': ['canary', 'dirty', 'mapping', 'memory', 'process', 'slots', 'vm'],
}
# Those that work on bare memory have address sanitizer as well: a word too far is noticed.
SANITIZED = {'unit.dirty_bitmap_test', 'unit.dirty_words_test', 'unit.guest_access_test',
             'unit.pending_pages_test'}
# Each interrupts every instruction anew, which takes minutes with mutants in the code; the litmus
# programs named observed look at the same orders in one go.
LITMUS_LEFT_OUT = {'marks_interleaved', 'removal_interleaved'}
FAULT_SUPPORT = ['driver', 'errnos', 'interpose']
KINDS = ['boundary', 'negated', 'dropped', 'swapped']

RUNTIME_HEADER = '''// Made by scripts/mutate.
#ifndef KVM_MUTATE_HPP
#define KVM_MUTATE_HPP
#include <type_traits>
extern "C" {
extern unsigned kvm_mutate_chosen;
extern unsigned char* kvm_mutate_reached;
}
namespace kvm_mutate {
inline constexpr unsigned first = 1;
inline void reach(unsigned id) noexcept {
  if (__atomic_load_n(kvm_mutate_reached + id, __ATOMIC_RELAXED) == 0) {
    __atomic_store_n(kvm_mutate_reached + id, static_cast<unsigned char>(1), __ATOMIC_RELAXED);
  }
}
constexpr bool chosen(unsigned id) noexcept {
  if (std::is_constant_evaluated()) {
    return false;
  }
  reach(id);
  return kvm_mutate_chosen == id;
}
constexpr bool kept(unsigned id) noexcept { return !chosen(id); }
constexpr unsigned step(unsigned id, unsigned steps, unsigned k) noexcept {
  if (std::is_constant_evaluated()) {
    return k;
  }
  for (unsigned i = 0; i + 1 < steps; ++i) {
    reach(id + i);
  }
  const unsigned at = kvm_mutate_chosen - id;  // Large if another one is chosen.
  return at < steps - 1 ? (k == at ? k + 1 : k == at + 1 ? k - 1 : k) : k;
}
#define KVM_MUTATE_RELATION(name, op, other, opposite)                                  \\
  template <class A, class B>                                                           \\
  constexpr bool name(unsigned id, const A& a, const B& b) noexcept {                   \\
    return chosen(id) ? a other b : chosen(id + 1) ? a opposite b : a op b;             \\
  }
KVM_MUTATE_RELATION(lt, <, <=, >=)
KVM_MUTATE_RELATION(le, <=, <, >)
KVM_MUTATE_RELATION(gt, >, >=, <=)
KVM_MUTATE_RELATION(ge, >=, >, <)
#undef KVM_MUTATE_RELATION
template <class A, class B>
constexpr bool eq(unsigned id, const A& a, const B& b) noexcept {
  return chosen(id) ? !static_cast<bool>(a == b) : static_cast<bool>(a == b);
}
template <class A, class B>
constexpr bool ne(unsigned id, const A& a, const B& b) noexcept {
  return chosen(id) ? a == b : a != b;
}
}  // namespace kvm_mutate
#endif
'''

# A library of its own, whose calls the fault tests do not replace.
RUNTIME_SOURCE = '''// Made by scripts/mutate.
#include <cstdlib>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
extern "C" {
unsigned kvm_mutate_chosen = 0;
static unsigned char nowhere[KVM_MUTATE_SIZE];
unsigned char* kvm_mutate_reached = nowhere;
}
__attribute__((constructor)) static void start() {
  if (const char* chosen = std::getenv("KVM_MUTATE_CHOSEN")) {
    kvm_mutate_chosen = static_cast<unsigned>(std::atoi(chosen));
  }
  if (const char* path = std::getenv("KVM_MUTATE_REACHED")) {
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
      std::abort();
    }
    // Shared, so that what crashes and what a child does is there as well.
    void* at = mmap(nullptr, KVM_MUTATE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
      std::abort();
    }
    kvm_mutate_reached = static_cast<unsigned char*>(at);
    close(fd);
  }
}
'''


def die(message):
    print(f'mutate: {message}', file=sys.stderr)
    sys.exit(1)


def read_equivalent():
    """The accepted mutants: {(file, function, kind, text): reason}."""
    entries = {}
    if not EQUIVALENT.exists():
        return entries
    place = key = None
    for number, line in enumerate(EQUIVALENT.read_text().splitlines() + [''], 1):
        if line.startswith('#') and key is None:
            continue
        if not line.strip():
            if key and not entries[key]:
                die(f'{EQUIVALENT.name}:{number}: no reason is given for {key[3]}')
            key = None
        elif not line.startswith(' '):
            if len(line.split(' ', 1)) != 2:
                die(f'{EQUIVALENT.name}:{number}: want FILE FUNCTION')
            place, key = tuple(line.split(' ', 1)), None
        elif line.startswith('    '):
            if key is None:
                die(f'{EQUIVALENT.name}:{number}: a reason without a mutant')
            for same in group:
                entries[same] = (entries[same] + ' ' + line.strip()).strip()
        else:
            kind, _, text = line.strip().partition(': ')
            if place is None or kind not in KINDS:
                die(f'{EQUIVALENT.name}:{number}: want KIND: TEXT under a FILE FUNCTION')
            # Mutants on consecutive lines share the reason that follows.
            if key is None or entries[key]:
                group = []
            key = (*place, kind, text)
            if key in entries:
                die(f'{EQUIVALENT.name}:{number}: twice: {text}')
            entries[key] = ''
            group.append(key)
    return entries


class Mutation:
    def __init__(self, options):
        self.options = options
        self.root = REPO / 'build/mutate' if options.build is None else pathlib.Path(options.build).resolve()
        self.mutants = []
        self.headers = {}
        ident = 1
        for pattern in HEADERS:
            found = sorted((REPO / 'include/kvm').glob(pattern))
            if not found:
                die(f'no such header: {pattern}')
            for path in found:
                name = str(path.relative_to(REPO / 'include'))
                header = Header('include/' + name, path.read_text(), ident)
                ident = header.next_ident
                self.headers[name] = header
                self.mutants += header.mutants
        # What reads the same in one function is told apart by a number.
        times = {}
        for mutant in self.mutants:
            key = mutant.key()
            times[key] = times.get(key, 0) + 1
            if times[key] > 1:
                mutant.text += f' ({times[key]})'
        self.size = (ident + 4096) & ~4095
        self.lock = threading.Lock()
        self.killers = {}  # by function, the last first
        self.killed_by = {}  # by mutant, in the runs before: what is tried first
        self.batches = {}

    # --- building ----------------------------------------------------------------------------

    def build(self):
        self.root.mkdir(parents=True, exist_ok=True)
        include = self.root / 'include'
        wanted = {str(p.relative_to(REPO / 'include')): p.read_text()
                  for p in (REPO / 'include').rglob('*.hpp')}
        wanted.update({name: header.rewritten() for name, header in self.headers.items()})
        wanted['kvm_mutate.hpp'] = RUNTIME_HEADER
        for name, text in wanted.items():
            write_if_changed(include / name, text)
        for path in include.rglob('*.hpp'):
            if str(path.relative_to(include)) not in wanted:
                path.unlink()
        write_if_changed(self.root / 'runtime.cpp', RUNTIME_SOURCE)
        write_if_changed(self.root / 'pch.hpp',
                         '#include <kvm/kvm.hpp>\n#include <gtest/gtest.h>\n')
        every = sorted((REPO / 'tests').rglob('*.hpp'))
        self.includes = digest(*(wanted[n] for n in sorted(wanted)),
                               *(p.read_text() for p in every))
        self.compiler = [self.options.compiler, '-std=c++20', '-w', '-I', str(include),
                         '-I', str(REPO / 'tests')]
        # Not optimised, and most without address sanitizer: the build takes a fifth of the time. What
        # a mutant does to memory is noticed by the C++ library's assertions, by what freed memory
        # holds, and by the tests in SANITIZED.
        self.flags = ['-O0', '-g0', '-D_GLIBCXX_ASSERTIONS', '-fsanitize=bounds,shift',
                      '-fsanitize-trap=all', '-fpch-instantiate-templates']
        link = ['-pthread', str(self.root / 'libmutate.so'), f'-Wl,-rpath,{self.root}']

        self.make(self.root / 'libmutate.so', [self.root / 'runtime.cpp'],
                  [self.options.compiler, '-O1', '-shared', '-fPIC', f'-DKVM_MUTATE_SIZE={self.size}'])
        self.built_here()
        pch = self.root / 'pch.pch'
        self.make(pch, [self.root / 'pch.hpp'], self.compiler + self.flags + ['-x', 'c++-header'])
        objects, self.programs, self.litmus = [], [], []
        wraps = {folder: [f'-Wl,--wrap={w}' for w in
                          (REPO / f'tests/{folder}/wrapped_calls.txt').read_text().split()]
                 for folder in ('fault', 'mutation')}
        wraps['mutation'] += wraps['fault']
        tests = {folder: [REPO / f'tests/{folder}/{name}_test.cpp' for name in names]
                 for folder, names in TESTS.items()}
        tests['mutation'] = sorted((REPO / 'tests/mutation').glob('*_test.cpp'))
        wanted = self.options.tests.split(',') if self.options.tests else ['']
        tests = {folder: [s for s in sources if any(w in f'{folder}.{s.stem}' for w in wanted)]
                 for folder, sources in tests.items()}
        links = []
        (self.root / 'bin').mkdir(exist_ok=True)
        support = [REPO / f'tests/fault/{name}.cpp' for name in FAULT_SUPPORT]
        for folder, sources in tests.items():
            sources = [s for s in sources if for_this_machine(s)]
            built = []
            # With fault/ each of its programs has the calls replaced.
            replaces = folder in ('fault', 'mutation') and sources
            for source in sources + (support if replaces else []):
                named = 'fault' if source in support else folder
                target = self.root / 'bin' / f'{named}.{source.stem}.o'
                more = ['-fsanitize=address'] if target.stem in SANITIZED else \
                    ['-include-pch', str(pch)]
                if not any(target == o[0] for o in objects):
                    objects.append((target, [source], self.compiler + self.flags + more + ['-c']))
                built.append(target)
                if not replaces:
                    links.append((target.with_suffix(''), [target],
                                  self.flags + (more if target.stem in SANITIZED else []), link))
            if replaces:
                links.append((self.root / 'bin' / folder, built, self.flags + wraps[folder], link))
        litmus = []
        if os.uname().machine == 'x86_64':
            for source in sorted((REPO / 'tests/litmus').glob('*.cpp')):
                if source.stem in LITMUS_LEFT_OUT or \
                        not any(w in f'litmus.{source.stem}' for w in wanted):
                    continue
                wrap = ['-Wl,--wrap=ioctl', '-Wl,--wrap=syscall'] \
                    if source.stem == 'harvest_order' else []
                target = self.root / 'bin' / f'litmus.{source.stem}'
                litmus.append(target)
                links.append((target, [source], self.compiler + ['-O2'] + wrap, link))
        with concurrent.futures.ThreadPoolExecutor(self.options.jobs) as pool:
            for _ in pool.map(lambda o: self.make(*o), objects):
                pass
            for _ in pool.map(lambda o: self.make(
                    o[0], o[1], [self.options.compiler] + o[2] if o[1][0].suffix == '.o' else o[2],
                    o[3] + (['-lgtest_main', '-lgtest'] if o[1][0].suffix == '.o' else [])), links):
                pass
        self.litmus = litmus
        self.programs = [l[0] for l in links if l[0] not in litmus]

    def make(self, target, sources, command, after=()):
        """Runs a compilation unless nothing of it has changed."""
        stamp = target.with_name(target.name + '.stamp')
        state = digest(*map(str, command), *map(str, after), self.includes,
                       *(source.read_bytes() for source in sources))
        if target.exists() and stamp.exists() and stamp.read_text() == state:
            return
        stamp.unlink(missing_ok=True)
        done = subprocess.run([*command, *map(str, sources), *after, '-o', str(target)],
                              stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            die(f'{target.name} could not be built:\n' + done.stderr[:8000])
        stamp.write_text(state)

    def built_here(self):
        """Which mutants this machine's compiler sees at all."""
        (self.root / 'all.cpp').write_text('#include <kvm/kvm.hpp>\n')
        text = subprocess.run(self.compiler + ['-E', '-P', str(self.root / 'all.cpp')],
                              stdout=subprocess.PIPE, text=True, check=True).stdout
        self.seen = set()
        for name, ident, more in re.findall(r'kvm_mutate::(\w+)\((\d+)(?:, (\d+))?', text):
            ident = int(ident)
            width = int(more) - 1 if name == 'step' else 2 if name in ('lt', 'le', 'gt', 'ge') else 1
            self.seen.update(range(ident, ident + width))

    # --- running -----------------------------------------------------------------------------

    def run(self, command, limit, chosen=None, reached=None):
        """Runs a test. Returns (what happened, seconds, output)."""
        env = dict(os.environ, KVM_HPP_TEST_ROUNDS_PERCENT=str(self.options.rounds))
        env.setdefault('KVM_HPP_SEED', '1')  # What is found by chance is found again.
        env['ASAN_OPTIONS'] = 'allocator_may_return_null=1'
        env['MALLOC_PERTURB_'] = '85'  # What is freed is no longer what it was.
        env.pop('KVM_MUTATE_CHOSEN', None)
        env.pop('KVM_MUTATE_REACHED', None)
        if chosen is not None:
            env['KVM_MUTATE_CHOSEN'] = str(chosen)
        if reached is not None:
            env['KVM_MUTATE_REACHED'] = str(reached)
        group = {'process_group': 0} if sys.version_info >= (3, 11) else {'start_new_session': True}
        started = time.monotonic()
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   cwd=self.root / 'run', **group)
        # What runs in circles is known by the time that it had, however busy the machine is.
        seconds = 3 + int(limit / 3 * max(1, (os.cpu_count() or 1) / 2))
        try:
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (seconds, seconds))
        except ProcessLookupError:
            pass  # It is over already.
        output, status = b'', 'time-out'
        while time.monotonic() < started + limit:
            try:
                output, _ = process.communicate(timeout=0.5)
                status = process.returncode
                break
            except subprocess.TimeoutExpired:
                if resident(process.pid) > most_memory:
                    break  # It counts as one that runs in circles.
        try:
            os.killpg(process.pid, signal.SIGKILL)  # What a mutant left behind, too.
        except ProcessLookupError:
            pass
        if status == 'time-out':
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                pass  # A child that left the session holds the pipe.
        seconds = time.monotonic() - started
        output = output.decode(errors='replace')
        if status == 0:
            skipped = '[  SKIPPED ]' in output and '[       OK ]' not in output
            return ('skipped' if skipped else 'passed'), seconds, output
        if status == 77:
            return 'skipped', seconds, output
        if status in ('time-out', -signal.SIGXCPU, -signal.SIGKILL):
            return 'time-out', seconds, output
        return ('failed' if status == 1 and 'Sanitizer' not in output else 'crashed'), \
            seconds, output

    def command(self, names):
        program = self.root / 'bin' / names[0].split(':', 1)[0]
        if program in self.litmus:
            return [str(program), str(self.options.litmus_seconds)]
        tests = ':'.join(n.split(':', 1)[1] for n in names)
        return [str(program), f'--gtest_filter={tests}', '--gtest_fail_fast', '--gtest_brief=0']

    def baseline(self):
        """Which sites each test reaches, and how long it takes: {name: (seconds, sites)}."""
        (self.root / 'run').mkdir(exist_ok=True)
        cache = self.root / 'baseline.json'
        saved = json.loads(cache.read_text()) if cache.exists() else {}
        known, names, states = {}, [], {}
        for program in self.programs + self.litmus:
            # An object's stamp is in the program's by its contents.
            states[program.name] = digest(program.with_name(program.name + '.stamp').read_text(),
                                          str(self.options.rounds), str(self.options.litmus_seconds))
            if saved.get(program.name, {}).get('state') == states[program.name]:
                known[program.name] = saved[program.name]
            elif program in self.litmus:
                names.append(f'{program.name}:')
            else:
                names += self.tests_of(program)
        for program, state in states.items():
            known.setdefault(program, {'state': state, 'skipped': [], 'tests': {}})
        failures = []

        def measure(name):
            file = self.root / 'run' / (digest(name) + '.reached')
            file.write_bytes(bytes(self.size))
            result, seconds, output = self.run(self.command([name]), 300, reached=file)
            if result not in ('passed', 'skipped'):  # Once more: it may have been the machine.
                result, seconds, output = self.run(self.command([name]), 300, reached=file)
            sites = [i for i, b in enumerate(file.read_bytes()) if b]
            file.unlink()
            return name, result, seconds, sites, output

        with concurrent.futures.ThreadPoolExecutor(self.options.jobs) as pool:
            for name, result, seconds, sites, output in pool.map(measure, names):
                program = known[name.split(':')[0]]
                if result == 'skipped':
                    program['skipped'].append(name)
                elif result != 'passed':
                    failures.append(f'{name}: {result}, without any mutant\n{output[-2000:]}')
                elif sites:
                    program['tests'][name] = (seconds, sites)
        if failures:
            die('\n'.join(failures[:5]) + f'\n{len(failures)} tests fail as they are')
        cache.write_text(json.dumps(saved | known))
        self.tests = {n: (t, set(r)) for p in known.values() for n, (t, r) in p['tests'].items()}
        self.skipped = [n for p in known.values() for n in p['skipped']]

    @staticmethod
    def tests_of(program):
        """The names of a program's tests, as PROGRAM:SUITE.TEST."""
        names, suite = [], ''
        listed = subprocess.run([str(program), '--gtest_list_tests'], stdout=subprocess.PIPE,
                                text=True, check=True).stdout
        for line in listed.splitlines():
            if line.startswith('  '):
                if 'Serial' not in suite or 'Fork' in suite:
                    names.append(f'{program.name}:{suite}{line.split("#")[0].strip()}')
            elif line.endswith('.') or '.  #' in line:
                suite = line.split('#')[0].strip()
        return names

    def reaching(self, mutant):
        names = [n for n, (_, sites) in self.tests.items() if mutant.ident in sites]
        return sorted(names, key=lambda n: self.tests[n][0])

    def judge(self, mutant):
        """Runs a mutant: (result, the test that killed it or those that did not)."""
        names = self.reaching(mutant)
        if not names:
            return 'not reached', []
        with self.lock:
            known = [self.killed_by.get(mutant.key()), *self.killers.get(mutant.key()[:2], ())]
        first = [n for n in dict.fromkeys(known) if n in names][:4]
        rest = [n for n in names if n not in first]
        litmus = [n for n in rest if n.startswith('litmus.')]
        rest = [n for n in rest if n not in litmus]
        # What watches each instruction notices most orderings, which few others do.
        watching = [n for n in litmus if '_observed' in n and mutant.kind == 'swapped']
        litmus = [n for n in litmus if n not in watching]
        alone, later = first + watching + rest[:8], rest[8:]
        programs = {}
        for name in later:
            programs.setdefault(name.split(':')[0], []).append(name)
        # Many at once are faster; each batch has so little that its time-out is short.
        batches = [[n] for n in alone]
        for group in programs.values():
            batch, load = [], 0
            for name in group:
                batch.append(name)
                load += self.tests[name][0]
                if load > 8 or len(batch) == 40:
                    batches.append(batch)
                    batch, load = [], 0
            if batch:
                batches.append(batch)
        batches.sort(key=lambda b: (b[0] not in first + watching, sum(self.tests[n][0] for n in b)))
        left = self.options.quick
        for batch in batches + [[n] for n in litmus]:
            usual = sum(self.tests[n][0] for n in batch)
            if left is not None:
                left -= usual
                if left < 0:
                    break
            result, _, output = self.run(self.command(batch), limit_for(usual), chosen=mutant.ident)
            if result in ('passed', 'skipped'):
                continue
            if len(batch) > 1 and not self.holds(tuple(batch), usual):
                for name in batch:
                    result, _, _ = self.run(self.command([name]), limit_for(self.tests[name][0]),
                                            chosen=mutant.ident)
                    if result not in ('passed', 'skipped'):
                        return result, [name]
                continue
            failed = re.findall(r'^\[  FAILED  \] (\S+)', output, re.M) or \
                re.findall(r'^\[ RUN      \] (\S+)', output, re.M)[-1:]
            killer = batch[0] if len(batch) == 1 else \
                batch[0].split(':')[0] + ':' + (failed[0].rstrip(',') if failed else '?')
            with self.lock:
                killers = self.killers.setdefault(mutant.key()[:2], [])
                if killer in self.tests:
                    self.killed_by[mutant.key()] = killer
                    if killer in killers:
                        killers.remove(killer)
                    killers.insert(0, killer)
            return result, [killer]
        return 'survived', names

    def holds(self, batch, usual):
        """Whether these tests pass together without a mutant: else their failure says nothing."""
        with self.lock:
            known = self.batches.get(batch)
        if known is None:
            known = self.run(self.command(list(batch)), limit_for(usual))[0] == 'passed'
            with self.lock:
                self.batches[batch] = known
        return known


most_memory = 3 << 30


def resident(pid):
    """How many bytes of memory a process has."""
    try:
        return int(pathlib.Path(f'/proc/{pid}/statm').read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def limit_for(usual):
    return 15 + 15 * usual


def write_if_changed(path, text):
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def digest(*parts):
    h = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode()
        h.update(len(data).to_bytes(8, 'little') + data)
    return h.hexdigest()


def for_this_machine(source):
    wanted = re.search(r'^// needs: (x86|arm64)$', source.read_text(), re.M)
    here = {'x86_64': 'x86', 'aarch64': 'arm64'}.get(os.uname().machine)
    return not wanted or wanted.group(1) == here


def rank(mutant):
    first = ['slot_registry', 'slot_table', 'slot_ids', 'slot_state', 'address_space', 'memory_reader',
             'guest_memory', 'gfn_to_hva', 'dirty_log', 'dirty_ring', 'dirty_tracker', 'dirty_words',
             'collector', 'pin.', 'memory_slot', 'mapping', 'exit']
    return next((i for i, name in enumerate(first) if name in mutant.file), len(first))


def chosen_mutants(mutants, options):
    if options.only:
        wanted = options.only.split(',')

        def matches(mutant):
            for want in wanted:
                name = mutant.name()
                if want == str(mutant.ident) or not want.isdigit() and (
                        name.endswith(want) or (':' not in want and want in mutant.file)):
                    return True
            return False
        mutants = [m for m in mutants if matches(m)]
        if not mutants:
            die(f'--only {options.only}: no mutant is there')
    if options.sample and options.sample < len(mutants):
        mutants = sorted(random.Random(options.seed).sample(mutants, options.sample),
                         key=lambda m: m.ident)
    return mutants


def main():
    parser = argparse.ArgumentParser(prog='scripts/mutate', add_help=False)
    parser.add_argument('--only')
    parser.add_argument('--list', action='store_true')
    parser.add_argument('--tests')
    parser.add_argument('--sample', type=int)
    parser.add_argument('--quick', type=float)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--jobs', type=int, default=os.cpu_count())
    parser.add_argument('--equivalent', action='store_true')
    parser.add_argument('--compiler', default='clang++')
    parser.add_argument('--build')
    parser.add_argument('--rounds', type=int, default=20)
    parser.add_argument('--litmus-seconds', type=int, default=4)
    options = parser.parse_args()

    started = time.monotonic()
    mutation = Mutation(options)
    accepted = read_equivalent()
    stale = set(accepted) - {m.key() for m in mutation.mutants}
    for file, function, kind, text in sorted(stale):
        print(f'{EQUIVALENT.relative_to(REPO)}: no such mutant: {file} {function}, {kind}: {text}')
    mutants = chosen_mutants(mutation.mutants, options)
    if options.list:
        for m in mutants:
            print(f'{m.ident}\t{m.name()}\t{m.function}\t{m.kind}\t{m.text}')
        return 1 if stale else 0
    if not os.access('/dev/kvm', os.R_OK | os.W_OK):
        die('/dev/kvm cannot be opened: most mutants need guests to be noticed')
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    print(f'{len(mutation.mutants)} mutants in {len(mutation.headers)} headers; building the tests',
          flush=True)
    mutation.build()
    built = time.monotonic()
    mutation.baseline()
    print(f'{len(mutation.tests)} tests reach them, {len(mutation.skipped)} skipped here '
          f'({built - started:.0f} s to build, {time.monotonic() - built:.0f} s to run once); '
          f'running {len(mutants)} mutants', flush=True)
    for name in mutation.skipped:
        print(f'skipped: {name}')

    remembered = mutation.root / 'killed_by.json'
    if remembered.exists():
        mutation.killed_by = {tuple(key): test for key, test in json.loads(remembered.read_text())}

    def remember():
        with mutation.lock:
            known = list(mutation.killed_by.items())
        remembered.write_text(json.dumps(known))

    counts = {kind: {} for kind in KINDS}
    log = open(mutation.root / 'results.tsv', 'w', buffering=1)
    survivors = []

    def one(m):
        if m.ident not in mutation.seen:
            return m, 'not built here', []
        if m.key() in accepted and not options.equivalent:
            return m, 'equivalent', []
        return (m, *mutation.judge(m))

    done, said = 0, time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        order = sorted(mutants, key=lambda m: (rank(m), m.ident))
        for future in concurrent.futures.as_completed([pool.submit(one, m) for m in order]):
            m, result, tests = future.result()
            if options.equivalent and m.key() in accepted:
                if result in ('survived', 'not reached'):
                    result = 'equivalent'
                elif result != 'not built here':
                    print(f'{m.name()}: accepted as equivalent, but {tests[0]} kills it: {m.text}')
            counts[m.kind][result] = counts[m.kind].get(result, 0) + 1
            log.write('\t'.join([str(m.ident), m.name(), m.function, m.kind, m.text, result,
                                 ' '.join(tests)]) + '\n')
            if result in ('survived', 'not reached'):
                survivors.append(m)
                print(f'{m.name()}: {m.function}: {m.change}: {m.text}\n    '
                      + (f'{len(tests)} tests reach it: {", ".join(tests[:6])}'
                         + (', ...' if len(tests) > 6 else '')
                         if tests else 'in no test does it decide anything' if m.kind == 'dropped'
                         else 'no test reaches it'), flush=True)
            done += 1
            if time.monotonic() - said > 60:
                said = time.monotonic()
                remember()
                print(f'-- {done} of {len(mutants)}', flush=True)

    remember()
    columns = ['failed', 'crashed', 'time-out', 'equivalent', 'not built here', 'survived',
               'not reached']
    print(f'\n{"":9} {"mutants":>8} {"killed":>7} | {"by a test":>9} {"crash":>6} {"time-out":>8} | '
          f'{"equivalent":>10} {"not built":>9} {"survived":>8} {"unreached":>9}')
    totals = [0] * (len(columns) + 2)
    for kind in KINDS + ['all']:
        c = counts.get(kind, {})
        row = [sum(c.values()), sum(c.get(x, 0) for x in columns[:3])] + [c.get(x, 0) for x in columns]
        if kind == 'all':
            row = totals
        else:
            totals = [a + b for a, b in zip(totals, row)]
        print(f'{kind:9} {row[0]:8} {row[1]:7} | {row[2]:9} {row[3]:6} {row[4]:8} | {row[5]:10} '
              f'{row[6]:9} {row[7]:8} {row[8]:9}')
    print(f'\n{totals[0]} mutants: {totals[1]} killed, {totals[5]} equivalent, {totals[6]} not built '
          f'here, {len(survivors)} alive, in {time.monotonic() - started:.0f} s')
    return 1 if survivors or stale or totals[0] == 0 else 0


if __name__ == '__main__':
    sys.exit(main())
