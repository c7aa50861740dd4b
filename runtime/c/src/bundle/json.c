#include "bundle/json.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#define INTEGER_DIGITS_LIMIT 4300 /* Python's */
#define NUMBER_BYTES 512
#define LARGEST_DOUBLE 1.7976931348623157e308

typedef struct {
    tv_arena *arena;
    char *data;
    size_t bytes, place;
    size_t values;
    const char *problem; /* NULL while all is well */
    bool no_memory;
} parser;

static bool parse_value(parser *self, tv_json *value, int depth);

static bool refuse(parser *self, const char *problem)
{
    if (self->problem == NULL)
        self->problem = problem;
    return false;
}

static int peek(const parser *self)
{
    return self->place < self->bytes ? (unsigned char)self->data[self->place] : -1;
}

static void skip_space(parser *self)
{
    while (peek(self) == ' ' || peek(self) == '\t' || peek(self) == '\n' || peek(self) == '\r')
        self->place++;
}

static bool take(parser *self, char expected)
{
    if (peek(self) != (unsigned char)expected)
        return false;
    self->place++;
    return true;
}

static tv_json *new_value(parser *self)
{
    if (++self->values > TV_JSON_VALUE_LIMIT) {
        refuse(self, "more values than are read");
        return NULL;
    }
    tv_json *value = tv_arena_take(self->arena, 1, sizeof *value);
    if (value == NULL) {
        self->no_memory = true;
        refuse(self, "not enough memory");
    }
    return value;
}

static bool parse_word(parser *self, tv_json *value, const char *word, tv_json_kind kind)
{
    size_t length = strlen(word);
    if (self->bytes - self->place < length || memcmp(self->data + self->place, word, length) != 0)
        return refuse(self, "expected a value");
    self->place += length;
    value->kind = kind;
    return true;
}

static size_t skip_digits(parser *self)
{
    size_t start = self->place;
    while (peek(self) >= '0' && peek(self) <= '9')
        self->place++;
    return self->place - start;
}

/* A number of more bytes than a double needs, to a few units in the last place. */
static double long_number(tv_text text)
{
    double number = 0.0;
    int exponent = 0, written = 0;
    bool after_point = false;
    size_t place = text.data[0] == '-';
    for (; place < text.bytes && text.data[place] != 'e' && text.data[place] != 'E'; place++) {
        if (text.data[place] == '.') {
            after_point = true;
        } else if (number < 1e18) {
            number = number * 10.0 + (text.data[place] - '0');
            exponent -= after_point;
        } else {
            exponent += !after_point; /* a digit that a double cannot hold */
        }
    }
    if (place < text.bytes) {
        bool negative = text.data[++place] == '-';
        for (place += text.data[place] == '-' || text.data[place] == '+'; place < text.bytes; place++)
            if (written < 100000)
                written = written * 10 + (text.data[place] - '0');
        exponent += negative ? -written : written;
    }
    for (; exponent > 0 && number != 0.0 && number <= 1e308; exponent--)
        number *= 10.0;
    for (; exponent < 0 && number != 0.0; exponent++)
        number /= 10.0;
    return text.data[0] == '-' ? -number : number;
}

/* Correctly rounded, as in Python. strtod reads the decimal point of the user's language. */
static double number_from_text(tv_text text)
{
    char copy[NUMBER_BYTES];
    const char *point = localeconv()->decimal_point;
    size_t used = 0, point_bytes = strlen(point);
    if (text.bytes + point_bytes >= sizeof copy)
        return long_number(text);
    for (size_t place = 0; place < text.bytes; place++) {
        if (text.data[place] == '.') {
            memcpy(copy + used, point, point_bytes);
            used += point_bytes;
        } else {
            copy[used++] = text.data[place];
        }
    }
    copy[used] = '\0';
    return strtod(copy, NULL);
}

static bool parse_number(parser *self, tv_json *value)
{
    size_t start = self->place;
    take(self, '-');
    size_t digits = take(self, '0') ? 1 : skip_digits(self);
    if (digits == 0)
        return refuse(self, "expected a value");
    value->kind = TV_JSON_INTEGER;
    size_t whole = self->place;
    if (take(self, '.')) {
        value->kind = TV_JSON_NUMBER;
        if (skip_digits(self) == 0)
            return refuse(self, "a number without digits after its point");
        whole = self->place;
    }
    if (take(self, 'e') || take(self, 'E')) {
        value->kind = TV_JSON_NUMBER;
        if (!take(self, '-'))
            take(self, '+');
        if (skip_digits(self) == 0)
            return refuse(self, "a number without digits in its exponent");
        whole = self->place;
    }
    if (value->kind == TV_JSON_INTEGER && digits > INTEGER_DIGITS_LIMIT)
        return refuse(self, "an integer of too many digits");
    value->text.data = self->data + start;
    value->text.bytes = whole - start;
    value->number = number_from_text(value->text);
    if (value->kind == TV_JSON_NUMBER && fabs(value->number) > LARGEST_DOUBLE)
        return refuse(self, "not a finite number");
    return true;
}

static int32_t hex4(const parser *self, size_t place)
{
    if (place > self->bytes || self->bytes - place < 4)
        return -1;
    int32_t code = 0;
    for (size_t index = 0; index < 4; index++) {
        char c = self->data[place + index];
        int digit = c >= '0' && c <= '9' ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return -1;
        code = code << 4 | digit;
    }
    return code;
}

/* After "\u"; both halves of a surrogate pair are one character. */
static int32_t escaped_code(parser *self)
{
    int32_t code = hex4(self, self->place);
    if (code < 0)
        return -1;
    self->place += 4;
    if (code < 0xD800 || code > 0xDFFF)
        return code;
    bool pair = code < 0xDC00 && self->bytes - self->place >= 6 && self->data[self->place] == '\\' &&
                self->data[self->place + 1] == 'u';
    int32_t low = pair ? hex4(self, self->place + 2) : -1;
    if (low < 0xDC00 || low > 0xDFFF)
        return -1;
    self->place += 6;
    return 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
}

static bool parse_escape(parser *self, char **out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    int letter = peek(self);
    if (letter < 0)
        return refuse(self, "a string without an end");
    self->place++;
    if (letter == 'u') {
        int32_t code = escaped_code(self);
        if (code < 0)
            return refuse(self, "a \\u without four digits, or half of a surrogate pair");
        *out += tv_utf8_from_code_point((uint32_t)code, *out);
        return true;
    }
    const char *found = letter == 0 ? NULL : strchr(from, letter);
    if (found == NULL)
        return refuse(self, "an unknown escape");
    *(*out)++ = to[found - from];
    return true;
}

/* Unescaped in place: no escape is shorter than the character that it stands for. */
static bool parse_string(parser *self, tv_text *text)
{
    if (!take(self, '"'))
        return refuse(self, "expected a string");
    char *start = self->data + self->place, *out = start;
    for (;;) {
        int byte = peek(self);
        if (byte < 0)
            return refuse(self, "a string without an end");
        if (byte < 0x20)
            return refuse(self, "a control character in a string");
        self->place++;
        if (byte == '"')
            break;
        if (byte != '\\')
            *out++ = (char)byte;
        else if (!parse_escape(self, &out))
            return false;
    }
    text->data = start;
    text->bytes = (size_t)(out - start);
    return true;
}

static bool keys_differ(parser *self, const tv_json *object)
{
    if (object->count < 2)
        return true;
    tv_text *keys = malloc(object->count * sizeof *keys);
    if (keys == NULL) {
        self->no_memory = true;
        return refuse(self, "not enough memory");
    }
    size_t count = 0;
    for (const tv_json *item = object->item; item != NULL; item = item->next)
        keys[count++] = item->key;
    qsort(keys, count, sizeof *keys, tv_text_compare);
    bool differ = true;
    for (size_t index = 1; index < count && differ; index++)
        differ = !tv_text_equal(keys[index - 1], keys[index]);
    free(keys);
    return differ || refuse(self, "a key is given twice");
}

static bool parse_items(parser *self, tv_json *value, char end, int depth)
{
    tv_json **place = &value->item;
    self->place++;
    skip_space(self);
    if (take(self, end))
        return true;
    do {
        tv_json *item = new_value(self);
        if (item == NULL)
            return false;
        skip_space(self);
        if (value->kind == TV_JSON_OBJECT) {
            if (!parse_string(self, &item->key))
                return false;
            skip_space(self);
            if (!take(self, ':'))
                return refuse(self, "expected ':'");
        }
        if (!parse_value(self, item, depth + 1))
            return false;
        *place = item;
        place = &item->next;
        value->count++;
        skip_space(self);
    } while (take(self, ','));
    if (!take(self, end))
        return refuse(self, end == ']' ? "expected ',' or ']'" : "expected ',' or '}'");
    return value->kind == TV_JSON_LIST || keys_differ(self, value);
}

static bool parse_value(parser *self, tv_json *value, int depth)
{
    if (depth > TV_JSON_DEPTH_LIMIT)
        return refuse(self, "nested too deeply");
    skip_space(self);
    switch (peek(self)) {
    case '{':
        value->kind = TV_JSON_OBJECT;
        return parse_items(self, value, '}', depth);
    case '[':
        value->kind = TV_JSON_LIST;
        return parse_items(self, value, ']', depth);
    case '"':
        value->kind = TV_JSON_STRING;
        return parse_string(self, &value->text);
    case 't':
        return parse_word(self, value, "true", TV_JSON_TRUE);
    case 'f':
        return parse_word(self, value, "false", TV_JSON_FALSE);
    case 'n':
        return parse_word(self, value, "null", TV_JSON_NULL);
    default:
        return parse_number(self, value);
    }
}

static int report(const parser *self, const char *name)
{
    if (self->no_memory)
        return tv_fail_memory();
    size_t line = 1, column = 1;
    for (size_t place = 0; place < self->place && place < self->bytes; place++) {
        bool end = self->data[place] == '\n';
        line += end;
        column = end ? 1 : column + 1;
    }
    return tv_fail(TV_INTEGRITY, TV_HINT_DAMAGED, "%s: not valid JSON: %s: line %zu column %zu", name,
                   self->problem, line, column);
}

tv_json *tv_json_parse(tv_arena *arena, char *data, size_t bytes, const char *name, int *status)
{
    parser self = {arena, data, bytes, 0, 0, NULL, false};
    tv_text whole = {data, bytes};
    tv_json *value = new_value(&self);
    bool good = value != NULL && (tv_is_utf8(whole) || refuse(&self, "not UTF-8"));
    good = good && parse_value(&self, value, 0);
    skip_space(&self);
    if (good && self.place != bytes)
        good = refuse(&self, "something after the value");
    *status = good ? TV_OK : report(&self, name);
    return good ? value : NULL;
}

const tv_json *tv_json_get(const tv_json *object, const char *key)
{
    if (object == NULL || object->kind != TV_JSON_OBJECT)
        return NULL;
    const tv_json *item = object->item;
    while (item != NULL && !tv_text_is(item->key, key))
        item = item->next;
    return item;
}

/* The digits of an integer as a number; false when it takes more than 64 bits. */
static bool magnitude_of(const tv_json *value, uint64_t *magnitude)
{
    *magnitude = 0;
    for (size_t place = value->text.data[0] == '-'; place < value->text.bytes; place++) {
        unsigned digit = (unsigned)(value->text.data[place] - '0');
        if (*magnitude > (UINT64_MAX - digit) / 10)
            return false;
        *magnitude = *magnitude * 10 + digit;
    }
    return true;
}

bool tv_json_integer(const tv_json *value, int64_t low, int64_t high, int64_t *out)
{
    uint64_t magnitude;
    if (value == NULL || value->kind != TV_JSON_INTEGER || !magnitude_of(value, &magnitude) || magnitude > INT64_MAX)
        return false;
    int64_t number = value->text.data[0] == '-' ? -(int64_t)magnitude : (int64_t)magnitude;
    *out = number;
    return low <= number && number <= high;
}

bool tv_json_unsigned(const tv_json *value, uint64_t *out)
{
    if (value == NULL || value->kind != TV_JSON_INTEGER || !magnitude_of(value, out))
        return false;
    return value->text.data[0] != '-' || *out == 0;
}
