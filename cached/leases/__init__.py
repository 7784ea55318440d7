"""How long bytes are kept, and how much space there is: rules without clocks or I/O."""
