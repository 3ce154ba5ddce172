# SPDX-License-Identifier: MIT
"""Finds what can be mutated in a header, and rewrites it so that a run chooses one mutant.

This reads tokens, not a syntax tree, so that it needs no compiler of a certain version. It relies on
the repository's .clang-format: an operator `<` has spaces around it, a template's bracket has none.
What it takes wrong does not compile, or is in the list that scripts/mutate --list prints.
"""
import bisect
import re

TOKEN = re.compile(
    r'(?P<comment>//[^\n]*|/\*.*?\*/)'
    r'|(?P<directive>^[ \t]*\#(?:[^\n\\]|\\.|\\\n)*)'
    r'|(?P<string>(?:u8|[LuU])?R"(?P<tag>[^(\s]*)\(.*?\)(?P=tag)"|(?:u8|[LuU])?"(?:[^"\\\n]|\\.)*"'
    r"|(?:u8|[LuU])?'(?:[^'\\\n]|\\.)+')"
    r"|(?P<number>\.?\d(?:[eEpP][+-]|'[0-9a-zA-Z]|[\w.])*)"
    r'|(?P<name>[A-Za-z_]\w*)'
    r'|(?P<op><=>|<<=|>>=|\.\.\.|->\*|::|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|[^\s\w])',
    re.S | re.M)

ASSIGNMENTS = {'=', '+=', '-=', '*=', '/=', '%=', '&=', '|=', '^=', '<<=', '>>='}
RELATIONAL = {'<': 'lt', '<=': 'le', '>': 'gt', '>=': 'ge'}
EQUALITY = {'==': 'eq', '!=': 'ne'}
BOUNDARY = {'<': '<=', '<=': '<', '>': '>=', '>=': '>'}
NEGATED = {'<': '>=', '<=': '>', '>': '<=', '>=': '<', '==': '!=', '!=': '=='}
# Looser than any comparison: where the operand of one ends.
LOOSE = ASSIGNMENTS | {',', ';', '?', ':', '||', '&&', '(', '[', '{', ')', ']', '}',
                       'return', 'throw', 'case', 'else', 'goto', 'do'}
CLOSES = {'(': ')', '[': ']', '{': '}', '<': '>'}
# Calls that change nothing which another step could see.
QUIET = {'size', 'data', 'begin', 'end', 'empty', 'get', 'pages', 'words', 'min', 'max', 'move',
         'forward', 'sizeof', 'alignof', 'countr_zero', 'bit_cast', 'if', 'for', 'while', 'switch',
         'static_cast', 'reinterpret_cast', 'const_cast', 'Gpa', 'uint64_t', 'uint32_t', 'uint16_t',
         'size_t', 'text', 'Hex', 'defined', 'declval', 'span', 'as_bytes', 'value', 'capacity',
         'noexcept', 'decltype', 'return'}


class Token:
    __slots__ = ('kind', 'text', 'start', 'end', 'spaced', 'match', 'angle')

    def __init__(self, kind, text, start, end, spaced):
        self.kind, self.text, self.start, self.end, self.spaced = kind, text, start, end, spaced
        self.match = None  # index of the bracket that belongs to it
        self.angle = False  # a bracket of template arguments


class Mutant:
    """One change. `ident` is what a run chooses it by."""

    def __init__(self, ident, file, line, function, kind, text, change):
        self.ident, self.file, self.line, self.function = ident, file, line, function
        self.kind, self.text, self.change = kind, text, change

    def name(self):
        return f'{self.file}:{self.line}'

    def key(self):
        return self.file, self.function, self.kind, self.text


class Header:
    """A header's mutants, and its text with all of them."""

    def __init__(self, path, source, first_ident):
        self.path, self.source = path, source
        self.next_ident = first_ident
        self.mutants = []
        self.edits = []  # (position, 0 closing / 1 opening, nesting, text, removed length)
        self.swaps = []  # the same, what swaps steps
        self.scopes = []
        self.newlines = [m.start() for m in re.finditer('\n', source)]
        self.tokens = self._tokenize()
        self._match()
        self._scope(0, len(self.tokens))
        self.mutants.sort(key=lambda m: m.ident)

    # --- tokens ------------------------------------------------------------------------------

    def _tokenize(self):
        tokens, last_end = [], 0
        for m in TOKEN.finditer(self.source):
            if m.lastgroup == 'comment' or m.group('comment'):
                continue
            kind = next(k for k in ('directive', 'string', 'number', 'name', 'op') if m.group(k))
            tokens.append(Token(kind, m.group(), m.start(), m.end(), m.start() > last_end))
            last_end = m.end()
        return tokens

    def _match(self):
        """Pairs the brackets. `>>` that closes two is split."""
        split = []
        for i, t in enumerate(self.tokens):
            if t.kind == 'op' and t.text == '>>' and not t.spaced:
                split += [Token('op', '>', t.start, t.start + 1, False),
                          Token('op', '>', t.start + 1, t.end, False)]
            else:
                split.append(t)
        self.tokens = split
        stack = []
        for i, t in enumerate(split):
            if t.kind != 'op':
                continue
            before = split[i - 1].text if i else ''
            if t.text == '<' and before != 'operator' and (not t.spaced or before == 'template'):
                t.angle = True
            elif t.text == '>' and not t.spaced and before != 'operator':
                t.angle = True
            elif t.text not in '()[]{}':
                continue
            if t.text in CLOSES:
                stack.append(i)
            else:
                while stack and CLOSES[split[stack[-1]].text] != t.text:
                    raise ValueError(f'{self.path}:{self._line(t.start)}: unmatched {t.text}')
                if not stack:
                    raise ValueError(f'{self.path}:{self._line(t.start)}: unmatched {t.text}')
                t.match = stack.pop()
                split[t.match].match = i

    def _line(self, position):
        return bisect.bisect_left(self.newlines, position) + 1

    def _is(self, i, text):
        return 0 <= i < len(self.tokens) and self.tokens[i].text == text

    def _clean(self, start, end):
        """The text of tokens [start, end) without comments, on one line."""
        out = ''
        for k in range(start, end):
            t = self.tokens[k]
            out += (' ' if t.spaced and out else '') + t.text
        return out

    # --- scopes: namespaces and classes ------------------------------------------------------

    def _scope(self, i, end):
        head = i
        while i < end:
            t = self.tokens[i]
            if t.kind == 'directive':
                i += 1
                head = i if head == i - 1 else head
            elif t.text == ';':
                i += 1
                head = i
            elif t.text == ':' and self.tokens[i - 1].text in ('public', 'private', 'protected'):
                i += 1
                head = i
            elif t.text == '{':
                i, ended = self._brace_in_scope(head, i)
                if ended and not (i < end and self.tokens[i].text in (';', ',', '{', '=')):
                    head = i
            elif t.match is not None and t.match > i:
                i = t.match + 1
            else:
                i += 1

    def _brace_in_scope(self, head, brace):
        """Handles `{` after the tokens from `head` on.
        Returns what follows its `}`, and whether the declaration may end there."""
        ended = True
        after = self.tokens[brace].match + 1
        top, k, paren = [], head, None
        while k < brace:
            t = self.tokens[k]
            if t.kind != 'directive':
                operator = k > head and self.tokens[k - 1].text == 'operator'
                top.append('operator' + t.text if operator else t.text)
            if t.text == '(' and paren is None and \
                    self.tokens[k - 1].text not in ('alignas', 'explicit', 'requires', 'noexcept',
                                                    'decltype'):
                paren = k
            k = t.match + 1 if t.match is not None and t.match > k else k + 1
        if 'namespace' in top or (top and top[0] == 'extern' and '(' not in top):
            self._scope(brace + 1, after - 1)
        elif 'enum' in top:
            pass
        elif 'requires' in top and self.tokens[brace - 1].text in ('requires', ')') and \
                self._requires_brace(brace):
            ended = False
        elif paren is None and any(w in top for w in ('class', 'struct', 'union')) and '=' not in top:
            word = next(w for w in ('class', 'struct', 'union') if w in top)
            at = next(k for k in range(head, brace) if self.tokens[k].text == word
                      and not self._inside_angle(head, k)) + 1
            while self.tokens[at].kind != 'name' or self.tokens[at].text == 'alignas':
                at = self.tokens[at].match + 1 if self.tokens[at].match else at + 1
            self.scopes.append(self.tokens[at].text)
            self._scope(brace + 1, after - 1)
            self.scopes.pop()
        elif paren is None or '=' in top or 'concept' in top:
            ended = False  # an initializer
        elif self._in_member_initializers(head, brace):
            ended = False
        else:
            self._function(head, paren, brace, after)
        return after, ended

    def _inside_angle(self, head, k):
        return any(self.tokens[j].angle and self.tokens[j].match and j < k < self.tokens[j].match
                   for j in range(head, k))

    def _requires_brace(self, brace):
        k = brace - 1
        if self.tokens[k].text == ')':
            k = self.tokens[k].match - 1
        return self.tokens[k].text == 'requires'

    def _in_member_initializers(self, head, brace):
        k, colon = head, False
        while k < brace:
            t = self.tokens[k]
            if t.text == ':' and self.tokens[k - 1].text != ':':
                colon = True
            k = t.match + 1 if t.match is not None and t.match > k else k + 1
        previous = self.tokens[brace - 1]
        return colon and (previous.kind == 'name' or previous.angle) and \
            previous.text not in ('noexcept',)

    def _function(self, head, paren, brace, after):
        if any(self.tokens[k].text == 'consteval' for k in range(head, paren)):
            return
        at = paren - 1
        name = self.tokens[at].text
        if self.tokens[at].text == 'operator' and self._is(paren + 1, ')'):
            name = 'operator()'
        elif self.tokens[at - 1].text == 'operator':
            name = 'operator ' + name if name[0].isalpha() else 'operator' + name
        elif self.tokens[at - 1].text == '~':
            name = '~' + name
            at -= 1
        while self.tokens[at - 1].text == '::' and self.tokens[at - 2].kind == 'name':
            name = self.tokens[at - 2].text + '::' + name
            at -= 2
        self.function = '::'.join(self.scopes + [name])
        self.constant = any(self.tokens[k].text == 'constexpr' for k in range(head, paren))
        # Member initializers and the like, from the parameters' end on.
        self._expression(self.tokens[paren].match + 1, brace, sites=True)
        self._statements(brace + 1, after - 1)

    # --- statements --------------------------------------------------------------------------

    def _statements(self, i, end):
        items = []
        while i < end:
            first = i
            kind, i = self._statement(i, end)
            items.append((kind, first, i))
        if not self.constant:
            self._orderings(items)

    def _to_semicolon(self, i, end):
        while i < end and self.tokens[i].text != ';':
            t = self.tokens[i]
            i = t.match + 1 if t.match is not None and t.match > i else i + 1
        return i

    def _statement(self, i, end):
        """Handles one statement; returns what it is and what follows it."""
        t = self.tokens[i]
        if t.kind == 'directive':
            return 'directive', i + 1
        if t.text == ';':
            return 'empty', i + 1
        if t.text == '{':
            self._statements(i + 1, t.match)
            return 'block', t.match + 1
        if t.text == '[' and self._is(i + 1, '['):
            return self._statement(t.match + 1, end) if t.match + 1 < end else ('empty', end)
        if t.text in ('public', 'private', 'default') and self._is(i + 1, ':'):
            return 'label', i + 2
        if t.text == 'case':
            k = i
            while self.tokens[k].text != ':':
                k += 1
            return 'label', k + 1
        if t.text == 'if':
            constant = self._is(i + 1, 'constexpr')
            paren = i + 2 if constant else i + 1
            close = self.tokens[paren].match
            if not constant:
                self._check(paren, close)
            i = self._skip_attributes(close + 1)
            _, i = self._statement(i, end)
            if i < end and self._is(i, 'else'):
                _, i = self._statement(self._skip_attributes(i + 1), end)
            return ('if constexpr' if constant else 'if'), i
        if t.text in ('for', 'while', 'switch', 'catch'):
            close = self.tokens[i + 1].match
            if t.text != 'catch':
                self._expression(i + 2, close, sites=True)
            _, i = self._statement(self._skip_attributes(close + 1), end)
            return t.text, i
        if t.text == 'do':
            _, i = self._statement(i + 1, end)
            close = self.tokens[i + 1].match
            self._expression(i + 2, close, sites=True)
            return 'do', close + 2
        if t.text == 'try':
            _, i = self._statement(i + 1, end)
            while i < end and self._is(i, 'catch'):
                _, i = self._statement(i, end)
            return 'try', i
        if t.text in ('struct', 'class', 'union'):
            brace = i
            while self.tokens[brace].text not in ('{', ';'):
                here = self.tokens[brace]
                brace = here.match + 1 if here.match is not None and here.match > brace else brace + 1
            if self.tokens[brace].text == '{':
                outer, constant = self.function, self.constant
                self.scopes.append(outer.split('::')[-1])
                self._scope(brace + 1, self.tokens[brace].match)
                self.scopes.pop()
                self.function, self.constant = outer, constant
                return 'type', self._to_semicolon(self.tokens[brace].match + 1, end) + 1
        stop = self._to_semicolon(i, end)
        if t.text in ('static_assert', 'using', 'typedef', 'enum', 'goto', 'break', 'continue'):
            return t.text, stop + 1
        words = {self.tokens[k].text for k in range(i, min(i + 3, stop))}
        if 'constexpr' in words and t.text in ('constexpr', 'static', 'inline'):
            self._expression(i, stop, sites=False)
            return 'constant', stop + 1
        declared = self._declared(i, stop)
        self._expression(i, stop, sites=True)
        if t.text in ('return', 'throw', 'co_return'):
            return t.text, stop + 1
        return ('declaration' if declared is not None else 'expression'), stop + 1

    def _skip_attributes(self, i):
        while self._is(i, '[') and self._is(i + 1, '['):
            i = self.tokens[i].match + 1
        return i

    def _declared(self, i, stop):
        """The index of the name that a simple declaration declares, or None."""
        while i < stop and self.tokens[i].text in ('const', 'static', 'volatile', 'thread_local',
                                                   'auto', 'unsigned', 'constexpr', 'struct'):
            i += 1
            if self.tokens[i - 1].text == 'auto' or self.tokens[i - 1].text == 'unsigned':
                return self._declarator(i, stop)
        if i >= stop or self.tokens[i].kind != 'name' and self.tokens[i].text != '::':
            return None
        while i < stop:  # the type
            if self.tokens[i].text == '::':
                i += 1
            if self.tokens[i].kind != 'name':
                return None
            i += 1
            if i < stop and self.tokens[i].angle and self.tokens[i].text == '<':
                i = self.tokens[i].match + 1
            if not self._is(i, '::'):
                break
        return self._declarator(i, stop)

    def _declarator(self, i, stop):
        while i < stop and (self.tokens[i].text in ('const', '&', '*', '&&')) and \
                not (self.tokens[i].text in ('&', '*', '&&') and self.tokens[i].spaced):
            i += 1
        if i < stop and self.tokens[i].text == '[':
            return i + 1
        if i < stop and self.tokens[i].kind == 'name':
            return i
        return None

    # --- expressions -------------------------------------------------------------------------

    def _expression(self, i, end, sites):
        """Finds the mutants in tokens [i, end), those of lambdas' bodies included."""
        if sites:
            self._logic(i, end)
        k = i
        while k < end:
            t = self.tokens[k]
            if t.kind == 'directive':
                pass
            elif t.text in ('requires', 'sizeof', 'alignof', 'decltype', 'noexcept', 'alignas',
                            'typeid') and k + 1 < end and self.tokens[k + 1].text in ('(', '{'):
                k = self.tokens[k + 1].match
                if t.text == 'requires' and self._is(k + 1, '{'):
                    k = self.tokens[k + 1].match
            elif t.angle and t.text == '<' and t.match:
                k = t.match
            elif t.text == '[' and self._is(k + 1, '['):
                k = t.match
            elif t.text == '[' and not (k > 0 and (self.tokens[k - 1].kind in ('name', 'string') and
                                                   self.tokens[k - 1].text not in ('return',)
                                                   or self.tokens[k - 1].text in (')', ']')
                                                   or self.tokens[k - 1].angle)):
                body = self._lambda_body(k, end)
                if body is None:
                    k = t.match  # structured bindings
                else:
                    self._expression(k + 1, t.match, sites)
                    self._statements(body + 1, self.tokens[body].match)
                    k = self.tokens[body].match
            elif t.text in ('(', '[', '{'):
                self._expression(k + 1, t.match, sites)
                k = t.match
            elif sites and t.kind == 'op' and not t.angle and self.tokens[k - 1].text != 'operator' \
                    and (t.text in RELATIONAL or t.text in EQUALITY):
                self._comparison(i, k, end)
            k += 1

    def _lambda_body(self, k, end):
        k = self.tokens[k].match + 1
        while k < end:
            t = self.tokens[k]
            if t.text == '{':
                return k
            if t.text in ('(', '<') and t.match:
                k = t.match + 1
            elif t.kind == 'name' or t.text in ('->', '::', '*', '&'):
                k += 1
            else:
                return None
        return None

    def _bounds(self, i, k, end, stops):
        """The operand range around the operator at k."""
        left = k
        while left > i:
            t = self.tokens[left - 1]
            if t.match is not None and t.match < left - 1:
                left = t.match
                continue
            if self._stops(left - 1, stops):
                break
            left -= 1
        right = k + 1
        while right < end:
            t = self.tokens[right]
            if t.match is not None and t.match > right:
                right = t.match + 1
                continue
            if self._stops(right, stops):
                break
            right += 1
        return left, right

    def _stops(self, k, stops):
        t = self.tokens[k]
        if t.kind == 'directive':
            return True
        if t.text in ('&', '&&'):  # Binary only with a space on both sides.
            spaced = t.spaced and k + 1 < len(self.tokens) and self.tokens[k + 1].spaced
            return spaced and t.text in stops
        return t.text in stops and not t.angle

    def _comparison(self, i, k, end):
        op = self.tokens[k].text
        stops = LOOSE | {'&', '|', '^'} | set(EQUALITY)
        if op in RELATIONAL:
            stops |= set(RELATIONAL)
        left, right = self._bounds(i, k, end, stops)
        if left == k or right == k + 1:
            raise ValueError(f'{self.path}:{self._line(self.tokens[k].start)}: no operand of {op}')
        if self._has_directive(left, right):
            return
        text = self._clean(left, right)
        changed = ([('boundary', BOUNDARY[op])] if op in BOUNDARY else []) + \
            [('negated', NEGATED[op])]
        ident = self.next_ident
        for kind, to in changed:
            self._add(kind, left, text, f'`{op}` is `{to}`')
        function = RELATIONAL.get(op) or EQUALITY[op]
        self._open(left, right, 1, f'::kvm_mutate::{function}({ident}, ')
        self.edits.append((self.tokens[k].start, 1, 0, ',', len(op)))
        self._close(left, right, 1, ')')

    def _logic(self, i, end):
        """The operands of && and || at this level."""
        k = i
        done = -1
        while k < end:
            t = self.tokens[k]
            if t.match is not None and t.match > k:
                k = t.match + 1
                continue
            if t.text in ('&&', '||') and k > done and self._stops(k, {'&&', '||'}):
                left, right = self._bounds(i, k, end, LOOSE - {'&&', '||'})
                done = right
                self._operands(left, right)
            k += 1

    def _operands(self, left, right):
        if self._has_directive(left, right):
            return
        for op in ('||', '&&'):
            cuts, k = [], left
            while k < right:
                t = self.tokens[k]
                if t.match is not None and t.match > k:
                    k = t.match + 1
                    continue
                if t.text == op and self._stops(k, {op}):
                    cuts.append(k)
                k += 1
            if not cuts:
                continue
            if any(self.tokens[c + d].text == '...' for c in cuts for d in (-1, 1)):
                return  # a fold
            for a, b in zip([left] + [c + 1 for c in cuts], cuts + [right]):
                self._add('dropped', a, self._clean(a, b), f'`{op}` goes without it')
                self._open(a, b, 2, '((')
                self._close(a, b, 2, ') ' + ('&& ::kvm_mutate::kept' if op == '||' else
                                             '|| ::kvm_mutate::chosen') +
                            f'({self.next_ident - 1}))')
                if op == '||' and any(self._is(k, '&&') for k in range(a, b)):
                    self._operands(a, b)
            return

    def _check(self, paren, close):
        """The condition of an if."""
        start = paren + 1
        k = start
        while k < close:
            t = self.tokens[k]
            if t.text == ';':
                start = k + 1
            k = t.match + 1 if t.match is not None and t.match > k else k + 1
        self._expression(paren + 1, close, sites=True)
        if self._has_directive(paren, close):
            return
        name = self._declared(start, close)
        assigned = name is not None and self._is(name + 1, '=')
        if start > paren + 1 and assigned:
            return
        self._add('dropped', start, self._clean(paren + 1, close), 'the check is dropped')
        ident = self.next_ident - 1
        if assigned:
            variable = self.tokens[name].text
            self.edits.append((self.tokens[close].start, 0, 1 << 30,
                               f'; static_cast<bool>({variable}) && ::kvm_mutate::kept({ident})', 0))
        else:
            self._open(start, close, 3, '(')
            self._close(start, close, 3, f') && ::kvm_mutate::kept({ident})')

    def _has_directive(self, i, end):
        return any(self.tokens[k].kind == 'directive' for k in range(i, end))

    # --- orderings ---------------------------------------------------------------------------

    def _step(self, kind, first, end):
        """What matters about a statement when it is swapped; None if it cannot be."""
        words = [self.tokens[k] for k in range(first, end)]
        if any(t.kind == 'directive' for t in words):
            return None
        text = self._clean(first, end)
        names = [t.text for t in words]
        if kind in ('if', 'for', 'while'):
            if 'break' in names or 'continue' in names:
                return None
        elif kind not in ('expression', 'declaration'):
            return None
        if kind == 'declaration':
            name = self._declared(first, end)
            if name is None or not self._is(name + 1, '=') or 'static' in names:
                return None
        calls = []
        for k in range(first, end - 1):
            after = k + 1
            if self.tokens[after].angle and self.tokens[after].text == '<':
                after = self.tokens[after].match + 1
            if self.tokens[k].kind == 'name' and self._is(after, '(') and \
                    self.tokens[k].text not in QUIET:
                calls.append(self.tokens[k].text)
        written = []
        k = first
        while k < end and kind == 'expression':
            t = self.tokens[k]
            if t.text in ASSIGNMENTS:
                written.append(self._clean(first, k))
                break
            k = t.match + 1 if t.match is not None and t.match > k else k + 1
        for k in range(first, end - 1):
            if self.tokens[k].text in ('++', '--'):
                near = k + 1 if self.tokens[k + 1].kind == 'name' else k - 1
                written.append(self.tokens[near].text)
        if kind == 'declaration':
            written = [self.tokens[self._declared(first, end)].text]
        return {'kind': kind, 'first': first, 'end': end, 'text': text, 'calls': calls,
                'written': written, 'lambda': '{' in names}

    @staticmethod
    def _mentions(step, other):
        return any(re.search(r'(?<![\w.>])' + re.escape(w.lstrip('*')) + r'(?!\w)', other['text'])
                   for w in step['written'] if w)

    def _swappable(self, a, b):
        if a is None or b is None:
            return False
        kinds = (a['kind'], b['kind'])
        if 'declaration' in kinds:
            plain = b if kinds[0] == 'declaration' else a
            if kinds.count('expression') != 1 or plain['lambda']:
                return False
            declared = a if kinds[0] == 'declaration' else b
            if self._mentions(declared, plain):
                return False
            return bool(a['calls'] and b['calls']) or self._mentions(plain, declared)
        if 'expression' not in kinds:
            return False  # Two checks, or loops.
        if a['calls'] and b['calls']:
            # The same step for two things has no order.
            return not (kinds == ('expression', 'expression') and a['calls'] == b['calls'])
        return self._mentions(a, b) or self._mentions(b, a)

    def _orderings(self, items):
        steps = [self._step(*item) for item in items]
        wanted = [self._swappable(a, b) for a, b in zip(steps, steps[1:])]
        i = 0
        while i < len(items):
            if not (steps[i] and steps[i]['kind'] != 'declaration'):
                i += 1
                continue
            j = i  # a run of steps that are swapped with each other
            while j < len(wanted) and wanted[j] and steps[j + 1]['kind'] != 'declaration':
                j += 1
            before = after = None
            if i and wanted[i - 1] and steps[i - 1]['kind'] == 'declaration':
                before = self._add_swap(steps[i - 1], steps[i])
            idents = [self._add_swap(steps[k], steps[k + 1]) for k in range(i, j)]
            if j < len(wanted) and wanted[j] and steps[j + 1]['kind'] == 'declaration':
                after = self._add_swap(steps[j], steps[j + 1])
            if before is not None:
                first = steps[i - 1]['first']
                self._open(first, first + 1, 5,
                           f'if (::kvm_mutate::chosen({before})) {{{self._copy(steps[i])}}} ')
            for k in range(i, j + 1):
                guards = [g for g, at in ((before, i), (after, j)) if g is not None and at == k]
                prefix = f'case {k - i}: ' if j > i else ''
                if k == i and j > i:
                    prefix = (f'for (unsigned kvm_step = 0; kvm_step != {j - i + 1}; ++kvm_step) '
                              f'switch (::kvm_mutate::step({idents[0]}, {j - i + 1}, kvm_step)) {{ '
                              + prefix)
                prefix += ''.join(f'if (::kvm_mutate::kept({g})) ' for g in guards)
                if j > i or guards:
                    self._open(steps[k]['first'], steps[k]['end'], 4, prefix + '{')
                    self._close(steps[k]['first'], steps[k]['end'], 4,
                                '}' + (' break;' if j > i else '') + (' }' if k == j > i else ''))
            if after is not None:
                declared = steps[j + 1]
                self._close(declared['end'] - 1, declared['end'], 5,
                            f' if (::kvm_mutate::chosen({after})) {{{self._copy(steps[j])}}}')
            i = j + 1

    def _add_swap(self, a, b):
        text = f'{a["text"]} <-> {b["text"]}'
        return self._add('swapped', a['first'], text, 'the two steps are swapped')

    def _copy(self, step):
        """A statement again, with the mutants inside it."""
        start, end = self.tokens[step['first']].start, self.tokens[step['end'] - 1].end
        # A step that is copied has no braces, so no step is swapped inside it.
        return self._render(start, end, [e for e in self.edits if
                                         (start < e[0] or e[1] == 1) and start <= e[0] and
                                         (e[0] < end or e[1] == 0) and e[0] <= end])

    # --- the rewritten text ------------------------------------------------------------------

    def _add(self, kind, at, text, change):
        text = text if len(text) <= 160 else text[:157] + '...'
        self.mutants.append(Mutant(self.next_ident, self.path, self._line(self.tokens[at].start),
                                   self.function, kind, text, change))
        self.next_ident += 1
        return self.next_ident - 1

    def _open(self, first, end, level, text):
        start, stop = self.tokens[first].start, self.tokens[end - 1].end
        (self.swaps if level >= 4 else self.edits).append((start, 1, -((stop - start) * 8 + level), text, 0))

    def _close(self, first, end, level, text):
        start, stop = self.tokens[first].start, self.tokens[end - 1].end
        (self.swaps if level >= 4 else self.edits).append((stop, 0, (stop - start) * 8 + level, text, 0))

    def _render(self, start, end, edits):
        out, at = [], start
        for position, _, _, text, removed in sorted(edits, key=lambda e: e[:3]):
            out.append(self.source[at:position])
            out.append(text)
            at = position + removed
        out.append(self.source[at:end])
        return ''.join(out)

    def rewritten(self):
        text = self._render(0, len(self.source), self.edits + self.swaps)
        # In the place of the first line, so that the others keep their numbers.
        return '#include <kvm_mutate.hpp> ' + text
