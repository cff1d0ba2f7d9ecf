"""typist.py COLUMNS COMMAND... -- [WAIT_FOR TYPE]... - type at a command on a terminal of its own.

Each TYPE (Python escapes, as \\n and \\x03, are understood) is typed when WAIT_FOR has been shown since the one before.
Prints what the terminal showed, then "status=N", N as a shell has it.  Gives up after 20 seconds.
"""
import fcntl, os, pty, select, struct, sys, termios, time

at = sys.argv.index("--")
columns, command, script = int(sys.argv[1]), sys.argv[2:at], sys.argv[at + 1:]
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    os.execvp(command[0], command)
shown, seen, end = b"", 0, time.time() + 20
while time.time() < end:
    if select.select([terminal], [], [], 0.1)[0]:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        shown += piece
    if script:
        found = shown.find(script[0].encode(), seen)
        if found >= 0:
            seen = found + len(script[0].encode())
            os.write(terminal, script[1].encode().decode("unicode_escape").encode("latin-1"))
            script = script[2:]
else:
    os.kill(pid, 9)
_, status = os.waitpid(pid, 0)
sys.stdout.buffer.write(shown)
print("\nstatus=%d" % (128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)))
