"""What a store holds, from its records alone: listed, shown, exported, cleaned, merged. It knows no kinds of values."""
