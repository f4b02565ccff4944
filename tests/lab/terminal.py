"""Plain words on a terminal: colours where they help, none with NO_COLOR or in a pipe; one line that counts down."""
import os, sys, time

COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "36"}


class Terminal:
    def __init__(self, stream=sys.stdout):
        self.stream, self.is_tty = stream, stream.isatty()
        self.colours = self.is_tty and "NO_COLOR" not in os.environ
        self.counting, self.counted_at = "", 0.0

    def paint(self, style, text):
        codes = ";".join(COLOURS[s] for s in style.split())
        return f"\033[{codes}m{text}\033[0m" if self.colours else text

    def say(self, text="", style=""):
        self._clear()
        print(self.paint(style, text) if style else text, file=self.stream, flush=True)

    def title(self, text):
        self.say()
        self.say(f"── {text} " + "─" * max(0, 96 - len(text)), "bold blue")

    def event(self, seconds, text, style=""):
        """One thing that happened, so long after the story's zero."""
        self.say(f"  {self.paint('dim', f'{seconds:+7.1f} s')}  {self.paint(style, text) if style else text}")

    def count(self, text):
        """A line that is overwritten by what comes next; in a pipe at most one every 5 seconds."""
        if self.is_tty:
            self._clear()
            width = os.get_terminal_size(self.stream.fileno()).columns
            self.counting = text[:width - 1]
            print(self.paint("dim", self.counting), end="", file=self.stream, flush=True)
        elif time.monotonic() - self.counted_at > 5:
            self.counted_at = time.monotonic()
            print(text, file=self.stream, flush=True)

    def table(self, rows, header):
        widths = [max(len(str(row[i])) for row in (header, *rows)) for i in range(len(header))]
        line = lambda row: "  " + "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip()
        self.say(line(header), "bold")
        for row in rows:
            self.say(line(row))

    def _clear(self):
        if self.counting:
            print("\r" + " " * len(self.counting) + "\r", end="", file=self.stream)
            self.counting = ""
